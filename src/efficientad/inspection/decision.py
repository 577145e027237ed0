"""Changes how a model file decides; its networks, maps and scores stay as they are.

What can change is the threshold, the false-alarm budget it follows from, and the table
of held-out normal scores behind p-values. In an exported file these are metadata, so
the graph stays to the byte and no PyTorch is needed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from efficientad.datasets import normal_image_paths, require_disjoint
from efficientad.errors import ConfigError, train_extra_is_missing
from efficientad.images.rgb import as_rgb, image_hash
from efficientad.inspection.opening import (
    EXPORT_SUFFIXES,
    load_predictor,
    require_model_file,
)
from efficientad.inspection.predictor import Predictor
from efficientad.method.decision import Calibration
from efficientad.model_files import export_metadata as metadata
from efficientad.storage import require_writable


def read_decision(model: Path | str) -> Calibration:
    """Read how a model file decides.

    Raises:
        ModelFileError: If the file cannot be used.
        MissingDependencyError: If it needs PyTorch, which is not installed.
    """
    model = Path(model)
    require_model_file(model)
    if model.suffix in EXPORT_SUFFIXES:
        return metadata.read(model).calibration
    calibration: Calibration = _load_detector(model).calibration
    return calibration


def change_decision(
    model: Path | str,
    output: Path | str | None = None,
    *,
    threshold: float | None = None,
    false_alarm_budget: float | None = None,
    images: Path | None = None,
) -> Calibration:
    """Give a model file another threshold, budget or table of normal scores.

    Args:
        model: A .ead file or an exported one.
        output: The file to write, with the same ending. None: the same file.
        threshold: Set by hand. None: derived from the normal scores and the budget,
            unless nothing else changes.
        false_alarm_budget: Share of normal images that may be flagged, in (0, 1). None:
            as it was.
        images: Folder of normal images that were not trained on; their scores by this
            very file replace the table, copies of one counted once. The file says from
            then on which they were. None: it stays.

    Returns:
        What the file holds now.

    Raises:
        ConfigError: If nothing is to change, a number is outside its range, or the
            ending is another.
        DatasetError: If there are no images, or if some were trained on.
        ModelFileError: If the file cannot be used.
        MissingDependencyError: If it needs PyTorch, or an engine that is not installed.
        StorageError: If it cannot be written; what stood there stays.
    """
    if threshold is None and false_alarm_budget is None and images is None:
        raise ConfigError(
            "needed a threshold, a false alarm budget or images, got none of them; "
            "say what shall change"
        )
    model = Path(model)
    require_model_file(model)
    output = model if output is None else Path(output)
    if output.suffix != model.suffix:
        raise ConfigError(
            f"the changed file needs the ending {model.suffix} of {model.name}, got "
            f"{output.name}; name it {output.stem}{model.suffix}"
        )
    if model.suffix in EXPORT_SUFFIXES:
        return _change_export(model, output, threshold, false_alarm_budget, images)
    detector = _load_detector(model)
    from efficientad.model_files import detector_file as model_file  # noqa: PLC0415 - needs torch

    found = _Decision(detector.calibration, detector.provenance)
    found = found.changed(threshold, false_alarm_budget)
    if images is not None:
        require_writable(output)
        found = found.with_scores_of(images, detector)
    detector.calibration, detector.provenance = found
    model_file.save(detector, output)
    return found.calibration


def _change_export(
    model: Path,
    output: Path,
    threshold: float | None,
    false_alarm_budget: float | None,
    images: Path | None,
) -> Calibration:
    before = metadata.read(model)
    found = _Decision(before.calibration, before.provenance)
    found = found.changed(threshold, false_alarm_budget)
    if images is not None:
        require_writable(output)
        found = found.with_scores_of(images, load_predictor(model))
    metadata.write(model, replace(before, **found._asdict()), output=output)
    return found.calibration


class _Decision(NamedTuple):
    """What a model file holds besides networks and maps."""

    calibration: Calibration
    provenance: dict[str, Any]

    def changed(self, threshold: float | None, budget: float | None) -> "_Decision":
        """Give it another threshold, and a budget unless that is None."""
        if budget is None:
            budget = self.calibration.false_alarm_budget
        calibration = replace(
            self.calibration, given_threshold=threshold, false_alarm_budget=budget
        )
        return self._replace(calibration=calibration)

    def with_scores_of(self, folder: Path, predictor: Predictor) -> "_Decision":
        """Give it the scores of other images, and say which they were."""
        paths, _ = normal_image_paths(folder, min_images=1)
        hashes = {str(path.absolute()): image_hash(as_rgb(path)) for path in paths}
        require_disjoint(hashes, self.provenance.get("training_images", {}))
        scores: dict[str, float] = {}
        for name, digest in hashes.items():
            if digest not in scores:  # a copy says nothing more about what is normal
                scores[digest] = predictor.predict(name).image_score
        return _Decision(
            replace(self.calibration, normal_scores=tuple(sorted(scores.values()))),
            self.provenance | {"decision_images": hashes},
        )


def _load_detector(model: Path) -> Any:
    try:
        from efficientad.model_files import detector_file as model_file  # noqa: PLC0415 - needs torch
    except ModuleNotFoundError as error:
        raise train_extra_is_missing(str(model), error) from error
    return model_file.load(model)
