"""Predictions of stored inspections, from their maps."""

from typing import Any

from efficientad.inspection.prediction import Prediction
from efficientad.model_files.calibration_entry import read_calibration
from efficientad.station.prediction.grids import grids_of, pose_of
from efficientad.station.prediction.rules import rule_of, with_rule
from efficientad.station.storage.queries import Row


def stored_prediction(
    inspection: Row, grids: bytes, calibration: Any, rule: Row
) -> Prediction:
    """Return the prediction of an inspection.

    Args:
        inspection: Row of the inspection, which has a score.
        grids: Its grids.
        calibration: Calibration of its model, as the station stores it.
        rule: Row of its rule.
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
