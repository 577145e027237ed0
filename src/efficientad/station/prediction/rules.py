"""Rules: how a station decides with a model. They do not change; a new one replaces."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from efficientad.decisions.decision import Calibration
from efficientad.decisions.rule import MASK_SIDE, Region, encode_mask
from efficientad.decisions.rule import Rule as DecisionRule
from efficientad.images.pose import Pose
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


def names_of(
    found: Sequence[Region], rule: Rule, pose: Pose | None, height: int, width: int
) -> list[str | None]:
    """Return the names of the regions of interest in which regions of defects lie.

    None for one outside of them, where a rule has none. Regions of defects are in the
    frame of the image, those of interest in that of its pose.
    """
    polygons = json.loads(rule.regions)
    names = [None, *(each["name"] for each in polygons), None]
    numbers = _numbers(polygons, height, width, pose)
    down, across = numbers.shape[0] / height, numbers.shape[1] / width
    inside = []
    for box in found:
        top, left = int(box.y * down), int(box.x * across)
        bottom = max(top + 1, round((box.y + box.height) * down))
        right = max(left + 1, round((box.x + box.width) * across))
        n_pixels = np.bincount(numbers[top:bottom, left:right].ravel())[1:]
        inside.append(names[1 + n_pixels.argmax()] if n_pixels.size else None)
    return inside


def _drawn(regions: Sequence[Mapping[str, Any]], height: int, width: int) -> Mask:
    """Return where defects count: in regions of interest, and in none to ignore."""
    return _numbers(regions, height, width) > 0


def _numbers(
    regions: Sequence[Mapping[str, Any]],
    height: int,
    width: int,
    pose: Pose | None = None,
) -> NDArray[np.int32]:
    """Return the region of interest of each pixel, counted from 1, at most 1024 a side.

    It is 0 where no defect counts. Where there is no region of interest, all pixels
    have one more than the number of regions.
    """
    shrink = min(1.0, MASK_SIDE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    is_everywhere = all(region["kind"] == "ignore" for region in regions)
    picture = Image.new("I", size, (len(regions) + 1) * is_everywhere)
    draw = ImageDraw.Draw(picture)
    for kind in ("interest", "ignore"):
        for number, region in enumerate(regions, 1):
            if region["kind"] == kind:
                corners = [(x * size[0], y * size[1]) for x, y in region["points"]]
                if pose is not None:
                    corners = [
                        pose.point_in_own_frame(*c, *size[::-1]) for c in corners
                    ]
                fill = number if kind == "interest" else 0
                draw.polygon([(x - 0.5, y - 0.5) for x, y in corners], fill=fill)
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
