"""An image beside its anomaly maps, all on the color scale of the threshold.

Maps are drawn from their grids at the size of the picture, never at the size of a large
image.
"""

from dataclasses import replace

from efficientad.errors import ImageError
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
from efficientad.method.decision import Prediction


def prediction_panel(
    image: RGBImage,
    prediction: Prediction,
    *,
    defect_mask: Mask | None = None,
    height: int = 256,
) -> RGBImage:
    """Return one picture of an image, its maps and their color scale.

    Args:
        image: The image that was predicted, at its own size.
        prediction: Its prediction.
        defect_mask: Annotated defect, with the shape of the image; its outline is
            shown on the image. None: no annotation.
        height: Height of each picture that is not very wide, in pixels.

    Raises:
        ImageError: If prediction or mask do not belong to an image of this size.
    """
    size = (prediction.height, prediction.width)
    if size != image.shape[:2]:
        raise ImageError(
            f"the image must have the size it was predicted at, {size}, got "
            f"{image.shape[:2]}; give the same image"
        )
    small = fit_image(image, height)
    verdict = "anomalous" if prediction.is_anomalous else "normal"
    low, high = color_scale(prediction.threshold)
    tiles = [
        Tile(f"score {prediction.image_score:.3g}: {verdict}", small),
        *prediction_tiles(small, prediction, defect_mask),
        Tile("", color_bar(height, low=low, high=high)),
    ]
    return panel(tiles, height=height)


def prediction_tiles(
    image: RGBImage, prediction: Prediction, defect_mask: Mask | None = None
) -> list[Tile]:
    """Return the annotated defect, each named map and the combined map.

    The combined map is laid over the image; pixels above the threshold are outlined.

    Args:
        image: The image at the size at which the maps are drawn.
        prediction: Its prediction, at any size.
        defect_mask: Annotated defect, with the shape of the predicted image. None: no
            such picture.

    Raises:
        ImageError: If the mask has another shape.
    """
    height, width = image.shape[:2]
    low, high = color_scale(prediction.threshold)
    tiles: list[Tile] = []
    if defect_mask is not None:
        if defect_mask.shape != (prediction.height, prediction.width):
            raise ImageError(
                "the mask must have the image's height and width, "
                f"{(prediction.height, prediction.width)}, got {defect_mask.shape}"
            )
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
    tiles.append(Tile("combined map", outline(covered, is_above, THRESHOLD_COLOR)))
    return tiles
