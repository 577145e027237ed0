"""The decision of a model file: threshold, false-alarm budget, normal scores.

Networks and maps stay as they are. In an exported file the decision is metadata, so the
graph stays to the byte and no PyTorch is needed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from efficientad.calibration.normal_images import read_other_images
from efficientad.calibration.rule_options import RuleOptions
from efficientad.calibration.scoring import with_normal_scores
from efficientad.decisions.decision import Calibration
from efficientad.errors import ConfigError
from efficientad.images.appearance import appearances
from efficientad.inspection.opening import (
    EXPORT_SUFFIXES,
    load,
    require_model_file,
    save,
)
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.tiling import whole_views
from efficientad.model_files import export_metadata
from efficientad.model_files.export_metadata import Metadata
from efficientad.settings import Budget, Range, checks_arguments
from efficientad.storage import require_writable


@checks_arguments
def threshold(
    model: Path | str,
    output: Path | str | None = None,
    *,
    at: float | None = None,
    false_alarm_budget: Budget | None = None,
    unsure_budget: Annotated[float, Range(0, 0.5)] | None = None,
    rule: RuleOptions | None = None,
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
        unsure_budget: Share of normal images that may be flagged or unsure. 0: no image
            is unsure. None: unchanged.
        rule: Region of interest and least area of a defect; needs images. None:
            unchanged.
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
    changes = (at, false_alarm_budget, unsure_budget, rule, images)
    is_unchanged = all(change is None for change in changes)
    if is_unchanged and output is not None:
        raise ConfigError(
            "needed a threshold, a budget, a rule or images, got none of them; give "
            "what shall change"
        )
    if rule is not None and images is None:
        raise ConfigError(
            "a region of interest and a least area change the scores of normal images; "
            "give --images as well"
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
    if unsure_budget is None:
        unsure_budget = calibration.unsure_budget
    calibration = replace(
        calibration,
        given_threshold=at,
        false_alarm_budget=false_alarm_budget or calibration.false_alarm_budget,
        unsure_budget=unsure_budget or None,
    )
    if images is not None:
        require_writable(output)
        predictor = load(model) if isinstance(opened, Metadata) else opened
        calibration, about = _recalibrated(calibration, predictor, images, rule)
        provenance |= about
    if not force:
        calibration.require_sensible()
    changed = replace(opened, calibration=calibration, provenance=provenance)
    if isinstance(changed, Metadata):
        export_metadata.write(model, changed, output=output)
    else:
        save(changed, output)
    return calibration


def _recalibrated(
    calibration: Calibration,
    predictor: Predictor,
    images: Path,
    rule: RuleOptions | None,
) -> tuple[Calibration, dict[str, Any]]:
    """Return a calibration with the scores of other images, and provenance of these."""
    normal, decided_by = read_other_images(images, predictor, rule)
    calibration = replace(calibration, rule=decided_by)
    # The terms are those of the whole image, so that a region of interest has none.
    if decided_by.region_of_interest:
        calibration = replace(calibration, terms={})
    alignment = predictor.preparation.alignment
    found = with_normal_scores(calibration, predictor.engine, normal.pixels, alignment)
    about = {
        "decision_images": normal.hash_of_name,
        "validation_appearance": appearances(whole_views(normal.pixels)),
    }
    return found, about
