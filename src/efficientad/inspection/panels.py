"""An image beside its anomaly maps, all on the color scale of the threshold.

Maps are drawn from their grids at the size of the picture, never at the size of a large
image.
"""

import math
from dataclasses import replace
from typing import Final

from efficientad.images.heatmaps import (
    THRESHOLD_COLOR,
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
from efficientad.images.rgb import Mask, RGBImage
from efficientad.method.decision import Prediction

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
    low, high = color_scale(prediction.threshold)
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

    The combined map is laid over the image; pixels above the threshold are outlined.

    Args:
        image: The image at the size at which the maps are drawn.
        prediction: Its prediction, at any size.
        defect_mask: Annotated defect, at any size. None: no such picture.
    """
    height, width = image.shape[:2]
    low, high = color_scale(prediction.threshold)
    tiles: list[Tile] = []
    if defect_mask is not None:
        mask = resize_mask(defect_mask, height, width)
        tiles.append(Tile("annotated defect", outline(image, mask)))
    drawn = replace(prediction, height=height, width=width)
    tiles += [
        Tile(f"{name} map", heatmap(drawn.map(name), low=low, high=high))
        for name in drawn.grids
    ]
    combined = drawn.anomaly_map
    covered = overlay(image, combined, low=low, high=high)
    is_above = combined > prediction.threshold
    is_above &= prediction.rule.mask_at(height, width)
    tiles.append(Tile("combined map", outline(covered, is_above, THRESHOLD_COLOR)))
    return tiles


def with_region_of_interest(image: RGBImage, prediction: Prediction) -> RGBImage:
    """Return an image at any size whose pixels outside of the region are grayed."""
    if not prediction.rule.region_of_interest:
        return image
    outside = ~prediction.rule.mask_at(*image.shape[:2])
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
