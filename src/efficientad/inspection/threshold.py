"""The decision of a model file: threshold, false-alarm budget, normal scores.

Networks and maps stay as they are. In an exported file the decision is metadata, so the
graph stays to the byte and no PyTorch is needed.
"""

from dataclasses import replace
from pathlib import Path

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
from efficientad.model_files.export_metadata import Metadata
from efficientad.progress import tracked
from efficientad.settings import Budget, checks_arguments
from efficientad.storage import require_writable


@checks_arguments
def threshold(
    model: Path | str,
    output: Path | str | None = None,
    *,
    at: float | None = None,
    false_alarm_budget: Budget | None = None,
    images: Path | None = None,
    force: bool = False,
) -> Calibration:
    """Return how a model file decides, after changing it if asked to.

    With nothing to change, the file is only read.

    Args:
        model: A .ead file or an exported one.
        output: File to write, with the same ending. None: the model file itself.
        at: Threshold set by hand. None: derived from the normal scores and the budget,
            unless nothing else changes.
        false_alarm_budget: Share of normal images that may be flagged, from 1e-6 to
            0.5. None: unchanged.
        images: Folder of normal images that were not trained on. Their scores by this
            file replace its normal scores, and the file names them from then on. Copies
            of an image count once. None: the scores stay.
        force: Whether to write a threshold that `Calibration.require_sensible` refuses.

    Raises:
        ConfigError: If an output is given and nothing is to change, a number is outside
            its range, the ending is another, or the threshold is no decision.
        DatasetError: If there are no images, or if some were trained on.
        ModelFileError: If the file cannot be used.
        MissingDependencyError: If it needs PyTorch, or an engine that is not installed.
        StorageError: If it cannot be written; the previous file stays.
    """
    model = Path(model)
    is_unchanged = at is None and false_alarm_budget is None and images is None
    if is_unchanged and output is not None:
        raise ConfigError(
            "needed a threshold, a false alarm budget or images, got none of them; "
            "give what shall change"
        )
    require_model_file(model)
    output = model if output is None else Path(output)
    if output.suffix != model.suffix:
        raise ConfigError(
            f"the changed file needs the ending {model.suffix} of {model.name}, got "
            f"{output.name}; name it {output.stem}{model.suffix}"
        )
    is_export = model.suffix in EXPORT_SUFFIXES
    opened = export_metadata.read(model) if is_export else load(model)
    calibration, provenance = opened.calibration, dict(opened.provenance)
    if is_unchanged:
        return calibration
    if false_alarm_budget is None:
        false_alarm_budget = calibration.false_alarm_budget
    calibration = replace(
        calibration, given_threshold=at, false_alarm_budget=false_alarm_budget
    )
    if images is not None:
        require_writable(output)
        paths, _ = normal_image_paths(images, min_images=1)
        hashes = {str(path.absolute()): image_hash(as_rgb(path)) for path in paths}
        require_disjoint(hashes, provenance.get("training_images", {}))
        predictor = load(model) if isinstance(opened, Metadata) else opened
        scores = _scores(predictor, hashes)
        calibration = replace(
            calibration, normal_scores=scores, training_scores=(), second_session={}
        )
        provenance["decision_images"] = hashes
    if not force:
        calibration.require_sensible()
    changed = replace(opened, calibration=calibration, provenance=provenance)
    if isinstance(changed, Metadata):
        export_metadata.write(model, changed, output=output)
    else:
        save(changed, output)
    return calibration


def _scores(predictor: Predictor, hashes: dict[str, str]) -> tuple[float, ...]:
    """Return the scores of different images in ascending order."""
    # A copy of an image says nothing more about what is normal.
    path_of = {digest: path for path, digest in hashes.items()}
    paths = tracked(path_of.values(), len(path_of), "scoring")
    return tuple(sorted(predictor.predict(path).image_score for path in paths))
