"""Image files opened, checked and decoded, before they become RGB.

A file is known by its first bytes, whatever it is called. What Pillow raises on damaged
ones becomes an `ImageError` that names the file and says what to do. What cannot be
judged is refused before the cost of decoding it, and what is decoded is handed on in
strips, so that no second copy of a large picture is made.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from efficientad.errors import ImageError

MIN_SIDE: Final = 8
"""Of an image, pixels."""

MAX_PIXELS: Final = 200_000_000
"""Of an image, height times width."""

# By their first bytes. The classes are called directly: `Image.open` warns about large
# images and refuses larger ones by a limit that holds for the whole process.
_FORMATS: Final[tuple[tuple[bytes, type[ImageFile]], ...]] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    # Not as several pictures: phones store previews behind the picture itself.
    (b"\xff\xd8\xff", JpegImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
    (b"GIF8", GifImageFile),
)
_WEBP: Final = (b"RIFF", b"WEBP")
_N_FIRST_BYTES: Final = 12

_COLOR_MODES: Final = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}
)
DEEP_GRAY_MODES: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})

# What Pillow raises on damaged files; a warning is raised where the program has made
# warnings errors.
_PILLOW_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)

_STRIP_PIXELS: Final = 1_000_000

# How an upright picture is seen in the order of its file, by EXIF orientation: whether
# rows and columns change places, then the direction along both.
_ORIENTATIONS: Final = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, -1, 1),
    7: (True, -1, -1),
    8: (True, 1, -1),
}

_File: TypeAlias = BufferedReader | BytesIO
_Scalar = TypeVar("_Scalar", bound=np.generic)


@contextmanager
def opened_file(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading.

    Raises:
        ImageError: If there is no such file, or it cannot be opened.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(
            f"an image was needed, {path} does not exist; check the path"
        ) from error
    except IsADirectoryError as error:
        raise ImageError(
            f"an image was needed, {path} is a folder; give a file in it"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(
            f"an image was needed, {path} cannot be opened "
            f"({getattr(error, 'strerror', error)}); check the path and the permissions"
        ) from error
    with file:
        yield file


def open_picture(file: _File, name: str) -> ImageFile:
    """Open an image by its first bytes; its pixels are not decoded yet.

    Args:
        file: At its beginning.
        name: What messages call it.

    Raises:
        ImageError: If it is empty, of no supported format, or damaged.
    """
    with _pillow_errors_translated(name):
        first = file.read(_N_FIRST_BYTES)
        file.seek(0)
    if not first:
        raise ImageError(
            f"an image was needed, {name} is empty (0 bytes); copy or record it again"
        )
    image_file = _format_of(first)
    if image_file is None:
        raise ImageError(
            f"an image was needed, {name} is no PNG, JPEG, BMP, TIFF, WebP or GIF by "
            "its content; export it as PNG"
        )
    with _pillow_errors_translated(name):
        return image_file(file)


def check_and_load(picture: Image.Image, name: str) -> None:
    """Decode a picture; what is no image to judge is refused before that cost.

    Raises:
        ImageError: If its size, number of frames or mode cannot be used, or if it
            cannot be decoded.
    """
    check_size(picture.height, picture.width, name)
    _check_frames(picture, name)
    if picture.mode not in _COLOR_MODES | DEEP_GRAY_MODES:
        raise ImageError(
            f"an image must be gray or in color, {name} has the mode {picture.mode}, "
            "which has no one way to RGB; export it as RGB"
        )
    with _pillow_errors_translated(name):
        picture.load()


def check_size(height: int, width: int, name: str) -> None:
    """Refuse an image that is too small or too large.

    Raises:
        ImageError: As `MIN_SIDE` and `MAX_PIXELS` say.
    """
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"an image needs at least {MIN_SIDE} x {MIN_SIDE} pixels, {name} has "
            f"{width} x {height}; leave it out"
        )
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"an image may have {MAX_PIXELS // 10**6} million pixels, {name} has "
            f"{width} x {height}; cut it into tiles or reduce it"
        )


def empty_upright(
    picture: Image.Image, channels: tuple[int, ...], dtype: type[_Scalar]
) -> tuple[NDArray[_Scalar], NDArray[_Scalar]]:
    """Make room for a decoded picture.

    Returns:
        An array for the upright picture, and its view in the order of the file.
    """
    is_transposed, down, right = _ORIENTATIONS[_orientation(picture)]
    if not is_transposed:
        upright = np.empty((picture.height, picture.width, *channels), dtype)
        return upright, upright[::down, ::right]
    upright = np.empty((picture.width, picture.height, *channels), dtype)
    return upright, upright.swapaxes(0, 1)[::down, ::right]


def strips_of(picture: Image.Image, name: str) -> Iterator[tuple[slice, Image.Image]]:
    """Cut a loaded picture into strips, in the order of its file.

    Yields:
        The rows of a strip, and the strip.
    """
    for rows in strips(picture.height, picture.width):
        with _pillow_errors_translated(name):
            strip = picture.crop((0, rows.start, picture.width, rows.stop))
        yield rows, strip


def strips(height: int, width: int) -> Iterator[slice]:
    """Divide an image into strips of about a million pixels: the rows of each."""
    n_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, n_rows):
        yield slice(top, min(top + n_rows, height))


@contextmanager
def _pillow_errors_translated(name: str) -> Iterator[None]:
    try:
        yield
    except _PILLOW_ERRORS as error:
        what = str(error) or type(error).__name__
        raise ImageError(
            f"an image was needed, {name} cannot be decoded ({what}); if it is damaged "
            "or incomplete, copy or export it again"
        ) from error


def _format_of(first_bytes: bytes) -> type[ImageFile] | None:
    if (first_bytes[:4], first_bytes[8:]) == _WEBP:
        return WebPImageFile
    for prefix, image_file in _FORMATS:
        if first_bytes.startswith(prefix):
            return image_file
    return None


def _check_frames(picture: Image.Image, name: str) -> None:
    # JPEG with previews behind the picture, when the user has opened it.
    if picture.format == "MPO":
        return
    with _pillow_errors_translated(name):
        n_frames = getattr(picture, "n_frames", 1)
    if n_frames > 1:
        raise ImageError(
            f"an image must have one frame, {name} has {n_frames}; save each frame or "
            "page that matters as a file of its own"
        )


def _orientation(picture: Image.Image) -> int:
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except _PILLOW_ERRORS:
        # Damaged metadata beside sound pixels: seen as stored, like in any viewer.
        return 1
    if isinstance(orientation, int) and orientation in _ORIENTATIONS:
        return orientation
    return 1
