"""Images of every format and depth, made by code."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

GRADIENT_16 = np.linspace(0, 65535, 24 * 20).astype(np.uint16).reshape(24, 20)
GRADIENT_8 = (GRADIENT_16 >> 8).astype(np.uint8)


def encoded(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the bytes of a file."""
    buffer = BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()
