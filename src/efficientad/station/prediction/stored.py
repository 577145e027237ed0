"""Stored inspections from their maps: as they were, or decided by another rule."""

from collections.abc import Callable
from functools import cache
from typing import Any

from efficientad.inspection.prediction import Prediction
from efficientad.method.maps import combine_maps
from efficientad.model_files.calibration_entry import read_calibration
from efficientad.station.prediction.grids import grids_of, pose_of
from efficientad.station.prediction.rules import Rule, rule_of, with_rule
from efficientad.station.storage.queries import Row


def stored_prediction(
    inspection: Row, grids: bytes, calibration: Any, rule: Row
) -> Prediction:
    """Return the prediction of an inspection that has a score.

    The calibration is that of its model, as the station stores it.
    """
    size = inspection["height"], inspection["width"]
    chosen = with_rule(read_calibration(calibration), rule_of(rule), *size)
    return Prediction(
        image_score=inspection["masked_score"],
        p_value=inspection["p_value"],
        threshold=chosen.threshold,
        height=size[0],
        width=size[1],
        grids=grids_of(grids),
        unsure_threshold=chosen.unsure_threshold,
        rule=chosen.rule,
        pose=pose_of(grids),
    )


def decision_by(calibration: Any, rule: Rule) -> Callable[[Row, bytes], str]:
    """Return the function that decides stored parts by a rule.

    It takes an inspection and its grids. Its result is exact, unless the model divides
    maps by their levels and the regions differ: levels are those of the earlier rule.
    """
    known = read_calibration(calibration)

    @cache
    def ruled(height: int, width: int) -> Any:
        return with_rule(known, rule, height, width)

    def decide(row: Row, grids: bytes) -> str:
        combined = combine_maps(grids_of(grids))
        points = row["image_score"] - float(combined.max())
        chosen = ruled(row["height"], row["width"])
        score = float(chosen.rule.scores(combined[None])[0]) + points
        if score > chosen.threshold:
            return "anomalous"
        level = chosen.unsure_threshold
        return "undecided" if level is not None and score > level else "normal"

    return decide


def is_exact(calibration: Any, rule: Rule) -> bool:
    """Return whether stored maps tell exactly what a rule would decide."""
    scales = read_calibration(calibration).scales.values()
    return rule.regions == "[]" or all(scale.levels is None for scale in scales)
