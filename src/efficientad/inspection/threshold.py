"""The decision of a model file: threshold, false-alarm budget, normal scores.

Networks and maps stay as they are. In an exported file the decision is metadata, so the
graph stays to the byte and no PyTorch is needed.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from efficientad.datasets import normal_image_paths, require_disjoint
from efficientad.errors import ConfigError
from efficientad.images.rgb import as_rgb, image_hash
from efficientad.inspection.opening import (
    EXPORT_SUFFIXES,
    load,
    require_model_file,
    save,
)
from efficientad.inspection.predictor import Predictor
from efficientad.method.decision import Calibration
from efficientad.model_files import export_metadata
from efficientad.storage import require_writable


def threshold(
    model: Path | str,
    output: Path | str | None = None,
    *,
    at: float | None = None,
    false_alarm_budget: float | None = None,
    images: Path | None = None,
) -> Calibration:
    """Return how a model file decides, after changing it where asked.

    With nothing to change, the file is only read.

    Args:
        model: A .ead file or an exported one.
        output: The file to write, with the same ending. None: the same file.
        at: Threshold set by hand. None: derived from the normal scores and the budget,
            unless nothing else changes.
        false_alarm_budget: Share of normal images that may be flagged, in (0, 1). None:
            unchanged.
        images: Folder of normal images that were not trained on. Their scores by this
            file replace its normal scores, and the file names them from then on. Copies
            of an image count once. None: the scores stay.

    Raises:
        ConfigError: If an output is given and nothing is to change, a number is outside
            its range, or the ending is another.
        DatasetError: If there are no images, or if some were trained on.
        ModelFileError: If the file cannot be used.
        MissingDependencyError: If it needs PyTorch, or an engine that is not installed.
        StorageError: If it cannot be written; what stood there stays.
    """
    model = Path(model)
    if at is None and false_alarm_budget is None and images is None:
        if output is not None:
            raise ConfigError(
                "needed a threshold, a false alarm budget or images, got none of them; "
                "give what shall change"
            )
        return _read(model)
    require_model_file(model)
    output = model if output is None else Path(output)
    if output.suffix != model.suffix:
        raise ConfigError(
            f"the changed file needs the ending {model.suffix} of {model.name}, got "
            f"{output.name}; name it {output.stem}{model.suffix}"
        )
    if model.suffix in EXPORT_SUFFIXES:
        metadata = export_metadata.read(model)
        before = _Decision(metadata.calibration, metadata.provenance)
        after = before.changed(at, false_alarm_budget)
        if images is not None:
            require_writable(output)
            after = after.with_scores_of(images, load(model))
        changed = replace(
            metadata,
            calibration=after.calibration,
            provenance=dict(after.provenance),
        )
        export_metadata.write(model, changed, output=output)
        return after.calibration
    predictor = load(model)
    before = _Decision(predictor.calibration, predictor.provenance)
    after = before.changed(at, false_alarm_budget)
    if images is not None:
        require_writable(output)
        after = after.with_scores_of(images, predictor)
    save(replace(predictor, **after._asdict()), output)
    return after.calibration


def _read(model: Path) -> Calibration:
    require_model_file(model)
    if model.suffix in EXPORT_SUFFIXES:
        return export_metadata.read(model).calibration
    return load(model).calibration


class _Decision(NamedTuple):
    """The part of a model file that decides."""

    calibration: Calibration
    provenance: Mapping[str, Any]

    def changed(self, at: float | None, budget: float | None) -> "_Decision":
        """Return it with another threshold, and another budget unless that is None."""
        if budget is None:
            budget = self.calibration.false_alarm_budget
        calibration = replace(
            self.calibration, given_threshold=at, false_alarm_budget=budget
        )
        return self._replace(calibration=calibration)

    def with_scores_of(self, folder: Path, predictor: Predictor) -> "_Decision":
        """Return it with the scores and names of other normal images."""
        paths, _ = normal_image_paths(folder, min_images=1)
        hashes = {str(path.absolute()): image_hash(as_rgb(path)) for path in paths}
        require_disjoint(hashes, self.provenance.get("training_images", {}))
        scores: dict[str, float] = {}
        for name, digest in hashes.items():
            if digest not in scores:  # a copy says nothing more about what is normal
                scores[digest] = predictor.predict(name).image_score
        return _Decision(
            replace(self.calibration, normal_scores=tuple(sorted(scores.values()))),
            {**self.provenance, "decision_images": hashes},
        )
