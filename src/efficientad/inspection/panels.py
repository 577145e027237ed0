"""An image beside its anomaly maps, all on the color scale of the calibration.

Maps are drawn from their grids at the size of the picture, never at the size of a large
image. They fade where they are only extended, towards the border.
"""

from typing import Final

import numpy as np

from efficientad.images.heatmaps import (
    THRESHOLD_COLOR,
    AnomalyMap,
    Tile,
    color_bar,
    color_scale,
    fit_image,
    heatmap,
    outline,
    overlay,
    panel,
    resize_mask,
)
from efficientad.images.rgb import Mask, RGBImage
from efficientad.method.decision import Grid, Prediction
from efficientad.method.placement import border_fade, place_map

_HEIGHT: Final = 256
"""Height of each picture of a panel that is not very wide, pixels."""


def prediction_panel(image: RGBImage, prediction: Prediction) -> RGBImage:
    """Return one picture of an image, its maps and their color scale.

    Args:
        image: The image that was predicted, at its own size.
        prediction: Its prediction.
    """
    small = fit_image(image, _HEIGHT)
    verdict = "anomalous" if prediction.is_anomalous else "normal"
    if prediction.flagged_for == "composition":
        verdict += " composition"
    low, high = color_scale(prediction.normal_range)
    tiles = [
        Tile(f"score {prediction.image_score:.3g}: {verdict}", small),
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
        Tile(f"{name} map", heatmap(drawn_map(grid, height, width), low=low, high=high))
        for name, grid in prediction.grids.items()
    ]
    tiles.append(Tile("combined map", prediction_overlay(image, prediction)))
    return tiles


def prediction_overlay(image: RGBImage, prediction: Prediction) -> RGBImage:
    """Return an image under its combined map, the pixels above the threshold outlined.

    Args:
        image: The image at the size at which the map is drawn.
        prediction: Its prediction, at any size.
    """
    low, high = color_scale(prediction.normal_range)
    combined = drawn_map(prediction.combined_grid, *image.shape[:2])
    covered = overlay(image, combined, low=low, high=high)
    return outline(covered, combined > prediction.threshold, THRESHOLD_COLOR)


def drawn_map(grid: Grid, height: int, width: int) -> AnomalyMap:
    """Return a map as it is drawn: values above 0 fade towards the border."""
    placed = place_map(grid, height, width)
    faded: AnomalyMap = np.minimum(placed, placed * border_fade(height, width))
    return faded
