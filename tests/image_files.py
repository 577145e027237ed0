"""Images of every format and depth, made by code."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from efficientad.errors import ImageError
from efficientad.images.rgb import decode_image

GRADIENT_16 = np.linspace(0, 65535, 24 * 20).astype(np.uint16).reshape(24, 20)
GRADIENT_8 = (GRADIENT_16 >> 8).astype(np.uint8)


def encoded(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the bytes of a file."""
    buffer = BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def n_refused(
    content: bytes, rng: np.random.Generator, *, n_files: int, n_bytes: int
) -> int:
    """Return how many damaged copies of a file are refused; the others are images.

    Three of the first `n_bytes` bytes of each copy are random.
    """
    refused = 0
    for _ in range(n_files):
        damaged = bytearray(content)
        for place in rng.integers(0, n_bytes, 3):
            damaged[place] = rng.integers(256)
        try:
            image = decode_image(bytes(damaged), "part")
        except ImageError:
            refused += 1
        else:
            assert image.shape[2] == 3
    return refused
