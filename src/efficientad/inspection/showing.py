"""Predictions as pictures: for a file, a notebook, or matplotlib."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from efficientad.errors import ConfigError, ImageError, MissingDependencyError
from efficientad.images.heatmaps import write_caption
from efficientad.images.rgb import ImageLike, RGBImage, as_rgb, read_image
from efficientad.inspection.panels import (
    prediction_overlay,
    prediction_panel,
    with_boxes,
)
from efficientad.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from efficientad.inspection.prediction import Prediction

_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_GRAY: Final = 128
_SIDE: Final = 256
"""Longer side of what stands for an image that is gone, pixels."""


def overlay_of(prediction: "Prediction", image: ImageLike | None) -> RGBImage:
    """Return the image of a prediction under its map, with a line of text.

    Raises:
        ImageError: If there is no image, or it is not the predicted one by its size.
    """
    if image is None and prediction.path is None:
        raise ImageError(
            "the predicted image was needed, this prediction was made from pixels and "
            "keeps none; give the image"
        )
    picture = as_rgb(
        prediction.path if image is None else image,  # type: ignore[arg-type]
        levels=prediction.levels,
    )
    if picture.shape[:2] != (prediction.height, prediction.width):
        raise ImageError(
            f"the predicted image of {prediction.width} x {prediction.height} pixels "
            f"was needed, got one of {picture.shape[1]} x {picture.shape[0]}; give the "
            "one that was predicted"
        )
    text = (
        f"{prediction.decision}: score {prediction.image_score:.3g}, threshold "
        f"{prediction.threshold:.3g}"
    )
    drawn = with_boxes(prediction_overlay(picture, prediction), prediction)
    return write_caption(drawn, text)


def save(prediction: "Prediction", path: Path, image: ImageLike | None) -> None:
    """Write the overlay of a prediction to an image file."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(
            f"the name of an image was needed, got {path.name}; end it in one of "
            f"{', '.join(_SUFFIXES)}"
        )
    picture = Image.fromarray(overlay_of(prediction, image))
    with atomic_write(path) as file:
        picture.save(file, Image.registered_extensions()[suffix])


def show(
    prediction: "Prediction", image: ImageLike | None, axes: "Axes | None"
) -> None:
    """Draw the overlay of a prediction by matplotlib."""
    try:
        from matplotlib import pyplot as plt  # noqa: PLC0415 - not a dependency
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "show needs matplotlib, which is not installed; run: pip install "
            "matplotlib, or use save"
        ) from error
    picture = overlay_of(prediction, image)
    place = plt.subplots()[1] if axes is None else axes
    place.imshow(picture)
    place.set_title(str(prediction), fontsize="small", wrap=True)
    place.set_axis_off()
    if axes is None:
        plt.show()


def png_of(prediction: "Prediction") -> bytes:
    """Return a small picture of a prediction as PNG, with its maps side by side.

    The maps lie on gray where the image is not at hand any more.
    """
    size = (prediction.height, prediction.width)
    scale = min(1, _SIDE / max(size))
    image = np.full((*(max(1, round(scale * n)) for n in size), 3), _GRAY, np.uint8)
    if prediction.path is not None:
        with suppress(ImageError):  # moved or removed since
            found = read_image(prediction.path, levels=prediction.levels)
            image = found if found.shape[:2] == size else image
    file = BytesIO()
    Image.fromarray(prediction_panel(image, prediction)).save(file, "PNG")
    return file.getvalue()
