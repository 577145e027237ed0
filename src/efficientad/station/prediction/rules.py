"""Rules: how a station decides with a model. They do not change; a new one replaces."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from efficientad.method.decision import Calibration


@dataclass(frozen=True, slots=True)
class Rule:
    """Threshold and regions of a decision."""

    id: str
    model: str
    """SHA-256 of the model file."""
    version: int
    threshold: float
    budget: float
    """Share of normal images that may be flagged."""
    min_area: int
    """Pixels of a region that flags an image, at least."""
    regions: str
    """JSON: a list of polygons with name, kind `interest` or `ignore`, and points as
    shares of width and height."""


def with_rule(calibration: Calibration, rule: Rule) -> Calibration:
    """Return a calibration that decides as a rule says."""
    return replace(
        calibration, given_threshold=rule.threshold, false_alarm_budget=rule.budget
    )


def first_rule(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the rule that a model file itself contains."""
    return {
        "version": 1,
        "threshold": calibration["threshold"],
        "budget": calibration["false_alarm_budget"],
        "min_area": int(calibration.get("min_area") or 0),
        "regions": [],
    }
