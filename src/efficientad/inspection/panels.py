"""An image beside its anomaly maps, all on the color scale of the threshold.

Maps are drawn from their grids at the size of the picture, never at the size of a large
image.
"""

from dataclasses import replace
from typing import Final

from efficientad.images.heatmaps import (
    THRESHOLD_COLOR,
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
from efficientad.inspection.prediction import Prediction
from efficientad.method.placement import place_map

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
    low, high = color_scale(prediction.threshold)
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
    tiles.append(Tile("combined map", marked_image(image, prediction)))
    return tiles


def marked_image(image: RGBImage, prediction: Prediction) -> RGBImage:
    """Return an image under its combined map, outlined where above the threshold.

    Args:
        image: The image at the size at which the map is drawn.
        prediction: Its prediction, at any size.
    """
    low, high = color_scale(prediction.threshold)
    combined = place_map(prediction.combined_grid, *image.shape[:2])
    covered = overlay(image, combined, low=low, high=high)
    return outline(covered, combined > prediction.threshold, THRESHOLD_COLOR)
