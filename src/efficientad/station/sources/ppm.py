"""Frames as PPM, the form in which a program hands them on."""

from collections.abc import Callable
from typing import Final

import numpy as np

from efficientad.errors import ImageError
from efficientad.images.rgb import RGBImage

_LONGEST_NUMBER: Final = 10
_MAX_PIXELS: Final = 2 * 10**8
_WHITE: Final = 255

Read = Callable[[int], bytes]
"""Returns so many bytes of a stream; fewer at its end."""


def read_frame(read: Read) -> RGBImage | None:
    """Return the next frame of a stream, (height, width, 3); None at its end.

    Raises:
        ImageError: If it is no binary PPM with 8 bits, or ends within a frame.
    """
    magic = read(2)
    if not magic:
        return None
    if magic != b"P6":
        raise ImageError(f"frames in binary PPM (P6) were needed, got {magic!r}")
    width, height, white = (_number(read) for _ in range(3))
    if white != _WHITE or not 0 < width * height <= _MAX_PIXELS:
        raise ImageError(
            f"frames of 8 bits and at most {_MAX_PIXELS} pixels were needed, got "
            f"{width} x {height} with {white} levels"
        )
    content = read(width * height * 3)
    if len(content) < width * height * 3:
        raise ImageError("the program ended within a frame")
    return np.frombuffer(content, np.uint8).reshape(height, width, 3)


def _number(read: Read) -> int:
    """Return the next number; spaces and comments before it are skipped."""
    digits = b""
    while len(digits) < _LONGEST_NUMBER:
        character = read(1)
        if character == b"#":
            while character not in {b"\n", b""}:
                character = read(1)
        if character.isdigit():
            digits += character
        elif digits or not character:
            break
    if not digits:
        raise ImageError("a PPM needs width, height and 255 in its heading")
    return int(digits)
