"""Small gray pictures as text, for files that hold numbers and text only."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def png_text(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    """Return a picture, (height, width), as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pixels_of_text(text: str, longest_side: int) -> NDArray[np.uint8]:
    """Return the picture, (height, width), gray, of an unchecked text.

    Raises:
        ValueError: If it is no PNG in base64, or a side has more pixels.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            if picture.format == "PNG" and max(picture.size) <= longest_side:
                return np.array(picture.convert("L"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    raise ValueError("another format or size")
