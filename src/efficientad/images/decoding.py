"""Image files opened, checked and decoded, before they become RGB.

The first bytes of a file decide its format, never its name. An image that cannot be
used is refused before it is decoded. A decoded one is converted in strips, so that
there is no second copy of a large image. `images.tiff` opens TIFF files.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from efficientad.errors import ImageError
from efficientad.images.tiff import TiffSamples, is_read_exactly, open_tiff
from efficientad.storage import open_regular

MIN_SIDE: Final = 8
"""Smallest height and width of an image, pixels."""

MAX_PIXELS: Final = 200_000_000
"""Largest height times width of an image."""

N_FIRST_BYTES: Final = 12
"""Bytes at the beginning of a file that decide its format."""

DEEP_GRAY_MODES: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
"""Pillow's modes with more than 8 bits, all with one channel."""

_COLOR_MODES: Final = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}
)

# How Pillow's decoders call color of 16 bits, of which they keep the upper 8.
_DEEP_COLOR: Final = re.compile(r";16[BLN]")

# `Image.open` is not used: it warns about large images and refuses larger ones by a
# limit that holds for the whole process.
_FORMATS: Final[tuple[tuple[bytes, Callable[..., "Picture"]], ...]] = (
    (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    (rb"\xff\xd8\xff", JpegImageFile),
    (rb"BM", BmpImageFile),
    (rb"II[*+]\0|MM\0[*+]", open_tiff),
    (rb"RIFF....WEBP", WebPImageFile),
    (rb"GIF8", GifImageFile),
)

_LOSSY_COMPRESSIONS: Final = frozenset({"jpeg", "tiff_jpeg", "webp"})
"""Pillow's names of those that a TIFF may have."""

_STRIP_PIXELS: Final = 1_000_000

# For each EXIF orientation: whether the stored image is transposed, then the direction
# of its rows and of its columns within the upright image.
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

_UPRIGHT: Final = 1

_Scalar = TypeVar("_Scalar", bound=np.generic)

Picture: TypeAlias = Image.Image | TiffSamples
"""An opened image, by Pillow or of TIFF samples."""

Strip: TypeAlias = Image.Image | NDArray[Any]
"""Some rows of an image, by Pillow or of TIFF samples."""


@contextmanager
def opened_picture(path: Path) -> Iterator[Picture]:
    """Open an image file without decoding its pixels.

    Raises:
        ImageError: If the file does not exist, is no regular file, cannot be opened, or
            holds no image.
    """
    try:
        file = open_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        problem = f"cannot be opened ({getattr(error, 'strerror', error)})"
        advice = "check the path and the permissions"
        if isinstance(error, FileNotFoundError):
            problem, advice = "does not exist", "check the path"
        if isinstance(error, IsADirectoryError):
            problem, advice = "is a folder", "give a file in it"
        raise ImageError(f"an image was needed, {path} {problem}; {advice}") from error
    with file:
        yield open_picture(file, str(path))


def open_picture(file: BufferedReader | BytesIO, name: str) -> Picture:
    """Return the image in a file at its beginning; its pixels are not decoded yet.

    Raises:
        ImageError: If the file is empty, of no supported format, or damaged.
    """
    with _errors_translated(name):
        first_bytes = file.read(N_FIRST_BYTES)
        file.seek(0)
    if not first_bytes:
        raise ImageError(
            f"an image was needed, {name} is empty (0 bytes); copy or record it again"
        )
    for pattern, open_format in _FORMATS:
        if re.match(pattern, first_bytes, re.DOTALL):
            with _errors_translated(name):
                return open_format(file)
    raise ImageError(
        f"an image was needed, {name} is no PNG, JPEG, BMP, TIFF, WebP or GIF by its "
        "content; export it as PNG"
    )


def begins_as_image(first_bytes: bytes) -> bool:
    """Return whether a file is of a readable format by its first `N_FIRST_BYTES`."""
    return any(re.match(pattern, first_bytes, re.DOTALL) for pattern, _ in _FORMATS)


def decode_upright(
    picture: Picture,
    name: str,
    convert: Callable[[Strip], NDArray[_Scalar]],
    dtype: type[_Scalar],
    channels: tuple[int, ...] = (),
) -> NDArray[_Scalar]:
    """Decode a picture and turn it as its EXIF orientation says.

    `convert` makes an array of a strip, some rows of the picture. The result has
    `channels` as axes behind height and width.

    Raises:
        ImageError: If the size, the number of frames or the mode of the picture cannot
            be used, or if it cannot be decoded.
    """
    require_size(picture.height, picture.width, name)
    _require_one_frame(picture, name)
    _require_usable_form(picture, name)
    with _errors_translated(name):
        decoded = _decoded(picture)
    # Only now: Pillow turns a TIFF upright while it decodes.
    is_transposed, down, right = _ORIENTATIONS[_orientation(picture)]
    shape = (picture.height, picture.width)
    size = shape[::-1] if is_transposed else shape
    with _errors_translated(name):
        upright = np.empty((*size, *channels), dtype)
    stored = upright.swapaxes(0, 1) if is_transposed else upright
    stored = stored[::down, ::right]
    for rows in strips(*shape):
        if isinstance(decoded, np.ndarray):
            stored[rows] = convert(decoded[rows])
            continue
        with _errors_translated(name):
            strip = decoded.crop((0, rows.start, picture.width, rows.stop))
        stored[rows] = convert(strip)
    return upright


def is_turned(picture: Picture) -> bool:
    """Return whether an opened image is stored in another orientation than upright."""
    return _orientation(picture) != _UPRIGHT


def has_16_bits(picture: Picture) -> bool:
    """Return whether an opened image stores integers of 16 bits or more."""
    if isinstance(picture, TiffSamples):
        return picture.n_integer_bits > 8  # noqa: PLR2004 - a byte
    in_color = [
        _DEEP_COLOR.search(str(tile[3])) for tile in getattr(picture, "tile", ())
    ]
    return any(in_color) or picture.mode in DEEP_GRAY_MODES - {"F"}


def drops_bits(picture: Picture) -> bool:
    """Return whether decoding keeps 8 of 16 bits: Pillow does so in color."""
    in_color = picture.mode not in DEEP_GRAY_MODES
    return in_color and isinstance(picture, Image.Image) and has_16_bits(picture)


def strips(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of each strip of an image: about a million pixels."""
    n_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, n_rows):
        yield slice(top, min(top + n_rows, height))


def require_size(height: int, width: int, name: str) -> None:
    """Raise `ImageError` if an image is smaller or larger than an image may be."""
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


def require_lossless(picture: Picture, path: Path) -> None:
    """Raise `ImageError` if an opened mask was stored with loss.

    Nobody knows which values of a JPEG are noise. The content of the file decides,
    never its name.
    """
    kind = ""
    if isinstance(picture, JpegImageFile):
        kind = "JPEG"
    elif isinstance(picture, TiffImageFile):
        is_lossy = picture.info.get("compression") in _LOSSY_COMPRESSIONS
        kind = "TIFF" if is_lossy else ""
    elif isinstance(picture, WebPImageFile):
        with path.open("rb") as file:
            kind = "WebP" if _is_lossy_webp(file) else ""
    if kind:
        raise ImageError(
            f"a mask must be stored without loss, {path} is a lossy {kind} by its "
            "content, whose values near edges are noise; export it again as PNG from "
            "its source"
        )


@contextmanager
def _errors_translated(name: str) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise ImageError(
            f"an image must fit into memory, {name} does not; reduce it, or cut it "
            "into tiles"
        ) from error
    except Exception as error:  # Pillow raises almost any kind on damaged files
        what = str(error) or type(error).__name__
        raise ImageError(
            f"an image was needed, {name} cannot be decoded ({what}); if it is damaged "
            "or incomplete, copy or export it again"
        ) from error


def _is_lossy_webp(file: BufferedReader | BytesIO) -> bool:
    """Return whether one of the chunks of a WebP file holds lossy pixels."""
    file.seek(12)
    while len(header := file.read(8)) == 8:  # noqa: PLR2004 - name and length
        if header[:4] == b"VP8 ":
            return True
        length = int.from_bytes(header[4:], "little")
        file.seek(length + length % 2, 1)
    return False


def _require_one_frame(picture: Picture, name: str) -> None:
    # MPO: a JPEG of a phone with previews behind the picture, opened by `Image.open`.
    if getattr(picture, "format", None) == "MPO":
        return
    with _errors_translated(name):
        has_several = getattr(picture, "is_animated", False)
    if has_several:
        raise ImageError(
            f"an image must have one frame, {name} has several; save each frame or "
            "page that matters as a file of its own"
        )


def _require_usable_form(picture: Picture, name: str) -> None:
    if isinstance(picture, TiffSamples) and not picture.is_usable:
        raise ImageError(
            f"an image must have a form that is read exactly, {name} is a TIFF with "
            f"{picture.form}; export it as PNG, or as TIFF with 8 or 16 bits and "
            "without compression"
        )
    if picture.mode not in _COLOR_MODES | DEEP_GRAY_MODES:
        raise ImageError(
            f"an image must be gray or in color, {name} has the mode {picture.mode}, "
            "which has no one way to RGB; export it as RGB"
        )
    if isinstance(picture, TiffImageFile) and not is_read_exactly(picture):
        raise ImageError(
            f"an image must have a form that is read exactly, {name} is a TIFF that "
            "Pillow may misread; give its path instead of a Pillow image"
        )


def _decoded(picture: Picture) -> Image.Image | NDArray[Any]:
    if isinstance(picture, TiffSamples):
        return picture.read()
    if isinstance(picture, PngImageFile) and picture.tile and picture.fp is not None:
        # Pillow decodes wrong pixels where the checksums of their bytes are wrong.
        position = picture.fp.tell()
        picture.fp.seek(0)
        PngImageFile(picture.fp).verify()
        picture.fp.seek(position)
    picture.load()
    return picture


def _orientation(picture: Picture) -> int:
    """Return the EXIF orientation, 1 if there is none that is defined."""
    if isinstance(picture, TiffSamples):
        orientation = picture.orientation
    else:
        try:
            orientation = picture.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
        except Exception:  # noqa: BLE001 - damaged metadata, intact pixels
            return _UPRIGHT
    return orientation if orientation in _ORIENTATIONS else _UPRIGHT
