"""Rules: how a station decides with a model. They do not change; a new one replaces."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from efficientad.decisions.decision import Calibration
from efficientad.decisions.rule import MASK_SIDE, encode_mask
from efficientad.decisions.rule import Rule as DecisionRule
from efficientad.images.rgb import Mask


@dataclass(frozen=True, slots=True)
class Rule:
    """Threshold and regions of a decision."""

    id: str
    model: str
    """SHA-256 of the model file."""
    threshold: float
    budget: float
    """Share of normal images that may be flagged."""
    min_area: int
    """Pixels of a region that flags an image, at least."""
    regions: str
    """JSON: a list of polygons with name, kind `interest` or `ignore`, and points as
    shares of width and height."""


def rule_of(row: Mapping[str, Any]) -> Rule:
    """Return the rule of a row of the database."""
    fields = ("id", "model", "threshold", "budget", "min_area")
    regions = json.dumps(row["regions"])
    return Rule(**{name: row[name] for name in fields}, regions=regions)


def with_rule(
    calibration: Calibration, rule: Rule, height: int, width: int
) -> Calibration:
    """Return a calibration that decides as a rule says on images of a size.

    Without regions or a least area, those of the model file hold.
    """
    inner, unsure = calibration.rule, calibration.unsure_budget
    regions = json.loads(rule.regions)
    if regions:
        mask = encode_mask(_drawn(regions, height, width))
        inner = replace(inner, region_of_interest=mask)
    if rule.min_area:
        inner = replace(inner, min_area=min(1.0, rule.min_area / (height * width)))
    return replace(
        calibration,
        given_threshold=rule.threshold,
        false_alarm_budget=rule.budget,
        unsure_budget=unsure if unsure and unsure > rule.budget else None,
        rule=inner,
    )


def require_region(regions: Sequence[Mapping[str, Any]]) -> None:
    """Raise `ConfigError` if polygons leave no place where defects count."""
    if regions:
        encoded = encode_mask(_drawn(regions, MASK_SIDE, MASK_SIDE))
        DecisionRule(region_of_interest=encoded)


def _drawn(regions: Sequence[Mapping[str, Any]], height: int, width: int) -> Mask:
    """Return where defects count: in regions of interest, and in none to ignore."""
    shrink = min(1.0, MASK_SIDE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    is_everywhere = all(region["kind"] == "ignore" for region in regions)
    picture = Image.new("1", size, int(is_everywhere))
    draw = ImageDraw.Draw(picture)
    for kind in ("interest", "ignore"):
        for region in regions:
            if region["kind"] == kind:
                corners = [
                    (x * size[0] - 0.5, y * size[1] - 0.5) for x, y in region["points"]
                ]
                draw.polygon(corners, fill=int(kind == "interest"))
    return np.array(picture)


def first_rule(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the rule that leaves everything to the model file."""
    return {
        "version": 1,
        "threshold": calibration["threshold"],
        "budget": calibration["false_alarm_budget"],
        "min_area": 0,
        "regions": [],
    }
