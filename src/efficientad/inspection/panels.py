"""An image beside its anomaly maps, all on the color scale of the calibration.

Maps are drawn from their grids at the size of the picture, never at the size of a large
image. They fade where they are only extended, towards the border.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from efficientad.images.heatmaps import (
    THRESHOLD_COLOR,
    AnomalyMap,
    Tile,
    color_bar,
    color_scale,
    draw_boxes,
    fit_image,
    heatmap,
    outline,
    overlay,
    panel,
)
from efficientad.images.pose import Pose
from efficientad.images.rgb import Mask, RGBImage
from efficientad.method.placement import border_fade, place_map

if TYPE_CHECKING:
    from efficientad.inspection.prediction import Grid, Prediction

_GRAY: Final = 100
"""Gray value that pixels outside of the region of interest are moved to."""
_HEIGHT: Final = 256
"""Height of each picture of a panel that is not very wide, pixels."""


def prediction_panel(image: RGBImage, prediction: "Prediction") -> RGBImage:
    """Return one picture of a predicted image, its maps and their color scale."""
    small = fit_image(image, _HEIGHT)
    verdict: str = prediction.decision
    if prediction.flagged_for == "composition":
        verdict += " composition"
    low, high = color_scale(prediction.normal_range)
    tiles = [
        Tile(
            f"score {prediction.image_score:.3g}: {verdict}",
            with_boxes(_with_region_of_interest(small, prediction), prediction),
        ),
        *prediction_tiles(small, prediction),
        Tile("", color_bar(_HEIGHT, low=low, high=high)),
    ]
    return panel(tiles, height=_HEIGHT)


def prediction_tiles(image: RGBImage, prediction: "Prediction") -> list[Tile]:
    """Return each named map and the combined map, drawn at the size of an image."""
    height, width = image.shape[:2]
    low, high = color_scale(prediction.normal_range)
    tiles = []
    for name, grid in prediction.grids.items():
        drawn = drawn_map(grid, height, width, prediction.pose)
        tiles.append(Tile(f"{name} map", heatmap(drawn, low=low, high=high)))
    return [*tiles, Tile("combined map", prediction_overlay(image, prediction))]


def prediction_overlay(image: RGBImage, prediction: "Prediction") -> RGBImage:
    """Return an image, at any size, under its combined map with outlined regions."""
    height, width = image.shape[:2]
    low, high = color_scale(prediction.normal_range)
    combined = drawn_map(prediction.combined_grid, height, width, prediction.pose)
    covered = overlay(image, combined, low=low, high=high)
    return outline(covered, drawn_regions(prediction, height, width), THRESHOLD_COLOR)


def drawn_regions(prediction: "Prediction", height: int, width: int) -> Mask:
    """Return the pixels of the defect regions as `drawn_map` shows them."""
    drawn = drawn_map(prediction.combined_grid, height, width, prediction.pose)
    regions = replace(prediction, height=height, width=width).region_mask
    return regions & (drawn > prediction.level)


def drawn_map(
    grid: "Grid", height: int, width: int, pose: Pose | None = None
) -> AnomalyMap:
    """Return the map of a grid as it is drawn at any size, in the image's own frame.

    Values above 0 fade towards the border.
    """
    placed = place_map(grid, height, width)
    fade = border_fade(height, width, *grid.shape)
    faded: AnomalyMap = np.minimum(placed, placed * fade)
    return faded if pose is None else pose.in_own_frame(faded)


def with_boxes(image: RGBImage, prediction: "Prediction") -> RGBImage:
    """Return an image at any size with a box around each region above the threshold."""
    down = image.shape[0] / prediction.height
    across = image.shape[1] / prediction.width
    boxes = [
        (
            int(region.x * across),
            int(region.y * down),
            math.ceil((region.x + region.width) * across),
            math.ceil((region.y + region.height) * down),
        )
        for region in prediction.regions
    ]
    return draw_boxes(image, boxes)


def _with_region_of_interest(image: RGBImage, prediction: "Prediction") -> RGBImage:
    """Return an image at any size whose pixels outside of the region are grayed."""
    if not prediction.rule.region_of_interest:
        return image
    outside = ~prediction.region_of_interest(*image.shape[:2])
    drawn = image.copy()
    drawn[outside] = drawn[outside] // 3 + _GRAY
    return drawn
