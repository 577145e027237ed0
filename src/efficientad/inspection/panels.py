"""An image beside its anomaly maps, all on the color scale of the calibration.

Maps are drawn from their grids at the size of the picture, never at the size of a large
image. They fade where they are only extended, towards the border.
"""

import math
from dataclasses import replace
from typing import Final

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
    resize_mask,
)
from efficientad.images.pose import Pose
from efficientad.images.rgb import Mask, RGBImage
from efficientad.inspection.prediction import Grid, Prediction
from efficientad.method.placement import border_fade, place_map

_GRAY: Final = 100
"""Gray value that pixels outside of the region of interest are moved to."""
_HEIGHT: Final = 256
"""Height of each picture of a panel that is not very wide, pixels."""


def prediction_panel(image: RGBImage, prediction: Prediction) -> RGBImage:
    """Return one picture of an image, its maps and their color scale.

    Args:
        image: The image that was predicted, at its own size.
        prediction: Its prediction.
    """
    small = fit_image(image, _HEIGHT)
    verdict: str = prediction.decision
    if prediction.flagged_for == "composition":
        verdict += " composition"
    low, high = color_scale(prediction.normal_range)
    tiles = [
        Tile(
            f"score {prediction.image_score:.3g}: {verdict}",
            with_boxes(with_region_of_interest(small, prediction), prediction),
        ),
        *prediction_tiles(small, prediction),
        Tile("", color_bar(_HEIGHT, low=low, high=high)),
    ]
    return panel(tiles, height=_HEIGHT)


def prediction_tiles(
    image: RGBImage, prediction: Prediction, defect_mask: Mask | None = None
) -> list[Tile]:
    """Return the annotated defect, each named map and the combined map.

    Args:
        image: The image at the size at which the maps are drawn.
        prediction: Its prediction, at any size.
        defect_mask: Annotated defect, at any size. None: no such picture.
    """
    height, width = image.shape[:2]
    low, high = color_scale(prediction.normal_range)
    tiles: list[Tile] = []
    if defect_mask is not None:
        mask = resize_mask(defect_mask, height, width)
        tiles.append(Tile("annotated defect", outline(image, mask)))
    tiles += [
        Tile(f"{name} map", heatmap(drawn, low=low, high=high))
        for name, grid in prediction.grids.items()
        for drawn in [drawn_map(grid, height, width, prediction.pose)]
    ]
    tiles.append(Tile("combined map", prediction_overlay(image, prediction)))
    return tiles


def prediction_overlay(image: RGBImage, prediction: Prediction) -> RGBImage:
    """Return an image under its combined map, with its defect regions outlined.

    Args:
        image: The image at the size at which the map is drawn.
        prediction: Its prediction, at any size.
    """
    height, width = image.shape[:2]
    low, high = color_scale(prediction.normal_range)
    combined = drawn_map(prediction.combined_grid, height, width, prediction.pose)
    covered = overlay(image, combined, low=low, high=high)
    return outline(covered, drawn_regions(prediction, height, width), THRESHOLD_COLOR)


def drawn_regions(prediction: Prediction, height: int, width: int) -> Mask:
    """Return the pixels of the defect regions as `drawn_map` shows them."""
    drawn = drawn_map(prediction.combined_grid, height, width, prediction.pose)
    regions = replace(prediction, height=height, width=width).region_mask
    shown: Mask = regions & (drawn > prediction.level)
    return shown


def drawn_map(
    grid: Grid, height: int, width: int, pose: Pose | None = None
) -> AnomalyMap:
    """Return a map as it is drawn: values above 0 fade towards the border.

    Args:
        grid: One value per descriptor.
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        pose: How the part lies in the image. None: the image was not aligned.
    """
    placed = place_map(grid, height, width)
    fade = border_fade(height, width, *grid.shape)
    faded: AnomalyMap = np.minimum(placed, placed * fade)
    return faded if pose is None else pose.in_own_frame(faded)


def with_region_of_interest(image: RGBImage, prediction: Prediction) -> RGBImage:
    """Return an image at any size whose pixels outside of the region are grayed."""
    if not prediction.rule.region_of_interest:
        return image
    outside = ~prediction.region_of_interest(*image.shape[:2])
    drawn = image.copy()
    drawn[outside] = drawn[outside] // 3 + _GRAY
    return drawn


def with_boxes(image: RGBImage, prediction: Prediction) -> RGBImage:
    """Return an image at any size with a box around each region above the threshold."""
    down, across = (
        n / n_own
        for n, n_own in zip(
            image.shape[:2], (prediction.height, prediction.width), strict=True
        )
    )
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
