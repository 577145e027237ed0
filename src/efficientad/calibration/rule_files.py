"""The rule of a decision from what a user gives: pictures, polygons, areas.

Polygons are a JSON file, in pixels of the images or in shares of their sides:

    {"unit": "pixels", "polygons": [[[x, y], [x, y], [x, y]], ...]}
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from efficientad.calibration.rule_options import RuleOptions
from efficientad.decisions.rule import (
    MASK_SIDE,
    WHITE,
    Rule,
    encode_mask,
    is_same_aspect,
)
from efficientad.errors import ConfigError
from efficientad.images.components import components
from efficientad.images.rgb import Mask, read_image
from efficientad.inspection.tiling import Size
from efficientad.model_files.json_text import from_json
from efficientad.storage import open_regular

_LEAST_POINTS: Final = 3
_MOST_POINTS: Final = 2000
"""Memory and time to look for crossed sides grow with the square of the corners."""


def rule_of(options: RuleOptions, sizes: Sequence[Size]) -> Rule:
    """Return the rule for images of these sizes.

    Raises:
        ConfigError: If a file cannot be used, the region of interest is empty or
            smaller than the least area, or the images have several sizes where
            something is given in pixels.
        ImageError: If a picture cannot be read.
    """
    if options.is_plain:
        return Rule()
    mask = np.ones((1, 1), np.bool_)
    if options.region:
        mask = _mask(options.region, sizes)
    if options.ignore:
        mask = mask & ~_mask(options.ignore, sizes)
    rule = Rule("" if mask.all() else encode_mask(mask))
    share, image_mm2 = 0.0, None
    if options.min_area or options.pixel_size:
        height, width = _only_size(sizes, "an area")
        area = options.min_area or 0.0
        if options.pixel_size:
            image_mm2 = height * width * options.pixel_size**2
            area /= options.pixel_size**2
        share = area / (height * width)
        largest = components(mask).areas().max() / mask.size
        if share > largest:
            raise ConfigError(
                f"the least area of a defect is {area:.4g} pixels, the largest "
                f"place where it may lie has {largest * height * width:.4g}; give "
                "a smaller area"
            )
    return replace(rule, min_area=share, image_mm2=image_mm2)


def _only_size(sizes: Sequence[Size], what: str) -> Size:
    if len(set(sizes)) > 1:
        (one, other), n = sorted(set(sizes))[:2], len(set(sizes))
        raise ConfigError(
            f"{what} in pixels needs images of one size, got {n} sizes such as "
            f"{one[1]} x {one[0]} and {other[1]} x {other[0]}"
        )
    return sizes[0]


def _mask(path: Path, sizes: Sequence[Size]) -> Mask:
    """Return the marked pixels of images, with the longest side of a stored mask."""
    height, width = sizes[0]
    for size in sizes:
        if not is_same_aspect(size, (height, width)):
            raise ConfigError(
                f"a region needs images of one aspect, got {width} x {height} and "
                f"{size[1]} x {size[0]} pixels"
            )
    shrink = min(1.0, MASK_SIDE / max(height, width))
    rows, columns = (max(1, round(n * shrink)) for n in (height, width))
    picture = Image.new("L", (columns, rows))
    if path.suffix.lower() == ".json":
        draw = ImageDraw.Draw(picture)
        for polygon in _polygons(path, sizes):
            # Pillow's coordinates are those of the pixels' centers.
            corners = polygon * (columns, rows) - 0.5
            draw.polygon([(float(x), float(y)) for x, y in corners], fill=255)
    else:
        image = read_image(path)
        if not is_same_aspect(image.shape[:2], (height, width)):
            raise ConfigError(
                f"{path} needs the aspect of the images, {width} x {height} pixels, "
                f"got {image.shape[1]} x {image.shape[0]}"
            )
        whole = Image.fromarray(image).convert("L")
        picture = whole.resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(picture) >= WHITE


def _polygons(path: Path, sizes: Sequence[Size]) -> list[NDArray[np.float64]]:
    """Return the corners of each polygon in shares of the image's sides, (n, 2)."""
    try:
        with open_regular(path) as file:
            content = from_json(file.read())
        unit, given = content["unit"], content["polygons"]
        polygons = [np.array(corners, np.float64) for corners in given]
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}); check it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(_form(path, f"something else ({error!r})")) from error
    if unit not in ("pixels", "shares") or not polygons:
        raise ConfigError(_form(path, f"unit {unit!r} and {len(polygons)} polygons"))
    sides = np.ones(2)
    if unit == "pixels":
        sides = np.array(_only_size(sizes, "a polygon")[::-1])
    for number, corners in enumerate(polygons, 1):
        is_list = corners.shape[1:] == (2,) and len(corners) >= _LEAST_POINTS
        if not is_list:
            raise ConfigError(_form(path, f"shape {corners.shape} in polygon {number}"))
        if len(corners) > _MOST_POINTS:
            raise ConfigError(
                f"a polygon may have {_MOST_POINTS} corners, polygon {number} of "
                f"{path} has {len(corners)}; leave some out, or give a picture"
            )
        if not ((corners >= 0) & (corners <= sides)).all():
            raise ConfigError(
                f"polygon {number} of {path} lies outside of the image; keep all "
                "corners inside"
            )
        if _crosses(corners):
            raise ConfigError(
                f"the sides of polygon {number} of {path} cross; give the corners in "
                "their order around it"
            )
    return [corners / sides for corners in polygons]


def _form(path: Path, got: str) -> str:
    return (
        f"{path} needs polygons of three or more corners as "
        '{"unit": "pixels" or "shares", "polygons": [[[x, y], ...], ...]}, '
        f"got {got}"
    )


def _crosses(corners: NDArray[np.float64]) -> bool:
    """Return whether two sides of a polygon cross."""
    ends = np.roll(corners, -1, axis=0)
    n = len(corners)

    def side(points: NDArray[Any]) -> NDArray[np.float64]:
        """Return on which side of each of the polygon's sides points lie, (n, n)."""
        (dx, dy), (px, py) = (ends - corners).T, points.T
        x, y = corners.T
        turn: NDArray[np.float64] = np.sign(
            dx[:, None] * (py - y[:, None]) - dy[:, None] * (px - x[:, None])
        )
        return turn

    splits = side(corners) * side(ends) < 0
    return bool((splits & splits.T & ~np.eye(n, dtype=bool)).any())
