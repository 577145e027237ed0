"""The verb `calibrate`: another decision of a trained detector. No torch here."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from efficientad.calibration.fit import fit_calibration
from efficientad.calibration.normal_images import read_other_images
from efficientad.calibration.rule_options import RuleOptions
from efficientad.decisions.budget import DEFAULT_BUDGET, require_order
from efficientad.errors import ConfigError
from efficientad.images.appearance import appearances
from efficientad.images.rgb import ImageLike
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.tiling import whole_views
from efficientad.settings import Budget, checks_arguments


@checks_arguments
def calibrate(
    predictor: Predictor,
    images: Path | str | Sequence[ImageLike],
    *,
    false_alarm_budget: Budget = DEFAULT_BUDGET,
    unsure_budget: Budget | None = None,
    rule: RuleOptions | None = None,
    threshold: float | None = None,
    force: bool = False,
) -> Predictor:
    """Return a predictor that is calibrated on other normal images.

    Args:
        predictor: Trained model; its networks stay.
        images: Normal images or their folder, none of them trained on; arrays are RGB
            (`as_rgb` converts others). Copies of an image count once.
        false_alarm_budget: Share of normal images that may be flagged, from 1e-6 to
            0.5.
        unsure_budget: Share of normal images that may be flagged or unsure. None: no
            image is unsure.
        rule: Region of interest and least area of a defect. None: as before.
        threshold: Decision threshold set by hand. None: derived from the images.
        force: Whether to accept a threshold that `Calibration.require_sensible`
            refuses.

    Raises:
        DatasetError: If there are no images, or if some were trained on.
        ConfigError: If the predictor runs an export, whose graph holds its own scales,
            or the threshold is no decision.
        ImageError: If an image has another aspect than the region of interest.
    """
    require_order(false_alarm_budget, unsure_budget)
    if predictor.weights is None:
        raise ConfigError(
            "calibration needs a detector file, got an exported model; calibrate the "
            ".ead file and export it again, or use threshold with --images"
        )
    normal, decided_by = read_other_images(images, predictor, rule)
    recipe = predictor.provenance.get("recipe", {})
    recipe = {**recipe, **(recipe.get("quick") or {})}  # earlier files: a part apart
    calibration = fit_calibration(
        predictor.engine,
        normal.pixels,
        false_alarm_budget=false_alarm_budget,
        divides_by_level=recipe.get("divides_by_level", False),
        places={k: scale.places for k, scale in predictor.calibration.scales.items()},
        names=normal.names,
        rule=decided_by,
        alignment=predictor.preparation.alignment,
    )
    calibration = replace(
        calibration, given_threshold=threshold, unsure_budget=unsure_budget
    )
    if not force:
        calibration.require_sensible()
    return replace(
        predictor,
        calibration=calibration,
        provenance={
            **{k: v for k, v in predictor.provenance.items() if k != "decision_images"},
            "validation_images": normal.hash_of_name,
            "validation_appearance": appearances(whole_views(normal.pixels)),
        },
    )
