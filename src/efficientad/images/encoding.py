"""Pictures as bytes of a file, and as text where a file holds numbers and text only."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the file of a picture; options are those of Pillow's `Image.save`."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def data_uri(content: bytes, kind: str = "png") -> str:
    """Return a file of a picture as an address in HTML that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png_text(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    """Return a picture, (height, width), as a PNG in base64."""
    return base64.b64encode(encoded(Image.fromarray(pixels))).decode()


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
