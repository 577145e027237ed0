"""A new rule on parts that are stored: what it would have decided, from their maps."""

from collections.abc import Callable
from functools import cache
from typing import Any

from efficientad.method.maps import combine_maps
from efficientad.model_files.calibration_entry import read_calibration
from efficientad.station.prediction.grids import grids_of
from efficientad.station.prediction.rules import Rule, with_rule
from efficientad.station.storage.queries import Row


def decision_by(calibration: Any, rule: Rule) -> Callable[[Row, bytes], str]:
    """Return the function that decides stored parts by a rule.

    It takes an inspection and its grids. Its result is exact, unless the model divides
    maps by their levels and the regions differ: levels are those of the earlier rule.

    Args:
        calibration: Calibration of the model, as the station stores it.
        rule: Rule to try.
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
