"""Read, check and resize images: any file in, RGB uint8 out.

What arrives from cameras, scanners and editors differs in depth, channels and
orientation. Here it becomes one thing, an `RGBImage`, by rules that look at the format
and never at the content, so that two pictures of the same part stay comparable:

    gray, 1-bit, palette     gray in all channels, or the palette's color
    alpha channel            dropped: the colors are there without it, and blending
                             would need a background that nobody gave
    CMYK, YCbCr, HSV         converted without a color profile
    16-bit                   the upper 8 bits: 65535 becomes 255. A camera that delivers
                             12 bits must put them at the upper end, else all is dark
    floating point           0 to 1 becomes 0 to 255
    EXIF orientation         applied, so that up is up
    several frames or pages  refused: nobody said which one to judge

An `ImageError` names the file and says what to do. Large images are converted in
strips: besides the result there is only what Pillow decoded, 2.3 times the pixels in
all (WebP, whose decoder keeps copies, more).
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

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

from efficientad.errors import DatasetError, ImageError

RGBImage: TypeAlias = NDArray[np.uint8]
"""(height, width, 3)."""

Mask: TypeAlias = NDArray[np.bool_]
"""(height, width)."""

Labels: TypeAlias = NDArray[np.int32]
"""(height, width)."""

ImageLike: TypeAlias = str | Path | Image.Image | NDArray[Any]
"""A file, a picture opened with Pillow, or an array as `as_rgb` takes it."""

IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
)
INPUT_SIZE: Final = 256
"""Height and width of the networks' input, pixels; the paper's."""

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
_DEEP_GRAY_MODES: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_LABEL_MODES: Final = (_DEEP_GRAY_MODES - {"F"}) | {"1", "L", "P"}

_ARRAY_CHANNELS: Final = (1, 3, 4)

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


def read_image(path: str | Path) -> RGBImage:
    """Read an image file of any supported format.

    Raises:
        ImageError: If there is no such file, or it holds no image that can be used.
    """
    name = str(path)
    with _opened_file(Path(path)) as file:
        return _rgb_from_picture(_open_picture(file, name), name)


def decode_image(content: bytes, name: str) -> RGBImage:
    """Decode the bytes of an image file that came over a network or out of an archive.

    Args:
        content: All bytes of the file.
        name: What messages call it.

    Raises:
        ImageError: If they are no image that can be used.
    """
    return _rgb_from_picture(_open_picture(BytesIO(content), name), name)


def read_mask(path: Path) -> Mask:
    """Read a mask: true where the stored value, or any color, is above zero.

    Nothing is scaled, so that a label of 1 counts at any depth.

    Raises:
        ImageError: If there is no such file, or it holds no image that can be used.
    """
    name = str(path)
    with _opened_file(path) as file:
        picture = _open_picture(file, name)
        _check_and_load(picture, name)
        mask, stored = _empty_upright(picture, (), np.bool_)
        for rows, strip in _strips_of(picture, name):
            stored[rows] = _mask_of(strip)
    return mask


def read_labels(path: Path) -> Labels:
    """Read a mask whose values tell defect types apart, as they are stored.

    Raises:
        ImageError: If there is no such file, it holds no image that can be used, or
            that is in color.
    """
    name = str(path)
    with _opened_file(path) as file:
        picture = _open_picture(file, name)
        if picture.mode not in _LABEL_MODES:
            raise ImageError(
                f"a mask with a value for each defect type must be gray, {name} has "
                f"the mode {picture.mode}; export it with one channel"
            )
        _check_and_load(picture, name)
        labels, stored = _empty_upright(picture, (), np.int32)
        for rows, strip in _strips_of(picture, name):
            stored[rows] = np.asarray(strip)
    return labels


def stored_mode(path: Path) -> str:
    """Tell how an image file stores its pixels, in Pillow's words such as L or RGB.

    Raises:
        ImageError: If there is no such file, or it holds no image.
    """
    with _opened_file(path) as file:
        return _open_picture(file, str(path)).mode


def as_rgb(image: ImageLike, name: str = "the given image") -> RGBImage:
    """Give any kind of image as RGB.

    Args:
        image: A path; a Pillow image; or an array, (height, width) or (height, width,
            channels) with 1, 3 or 4 channels, the fourth being dropped. Its values are
            uint8, uint16 over the whole range, bool, or floating point from 0 to 1.
        name: What messages call an image that is no file.

    Returns:
        A new array, which shares no memory with `image`.

    Raises:
        ImageError: If it is none of these, or smaller or larger than an image may be.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "")) or name
        return _rgb_from_picture(image, name)
    if isinstance(image, np.ndarray):
        return _rgb_from_array(image, name)
    raise ImageError(
        f"{name} must be a path, a Pillow image or a NumPy array, got "
        f"{type(image).__name__}; convert it to one of these"
    )


def resize_image(image: RGBImage, height: int, width: int) -> RGBImage:
    """Resize by Pillow's bilinear filter, which averages when it shrinks.

    The one place for resizing: training, calibration and prediction must see the same.
    Columns first, then rows: Pillow's own choice depends on size and version, and each
    pass rounds. Exported graphs do the same.

    Returns:
        A new array, (height, width, 3).
    """
    picture = Image.fromarray(image)
    for size in ((width, picture.height), (width, height)):
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=None)
    return np.array(picture)


def find_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """List the image files in a folder by their suffix, in the same order everywhere.

    Hidden files and folders are left out, and linked folders are not followed.

    Args:
        folder: Where to look.
        recursive: Also in all folders below.

    Raises:
        DatasetError: If there is no such folder, or it cannot be listed.
    """
    found = _walk(folder, recursive=recursive)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def file_hash(path: str | Path) -> str:
    """Hash the bytes of a file: SHA-256, 64 hexadecimal digits.

    Raises:
        ImageError: If it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(
            f"cannot read {path} ({error.strerror}); check the path and the permissions"
        ) from error


def image_hash(image: RGBImage) -> str:
    """Hash shape and pixels: equal for the same picture in another file or format."""
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _walk(folder: Path, *, recursive: bool) -> Iterator[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if entry.name[0] != "."]
    except OSError as error:
        raise DatasetError(
            f"a folder of images was needed, {folder} cannot be listed "
            f"({error.strerror}); check the path"
        ) from error
    for entry in entries:
        if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
            yield entry
        elif recursive and entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, recursive=True)


@contextmanager
def _opened_file(path: Path) -> Iterator[BufferedReader]:
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


def _open_picture(file: _File, name: str) -> ImageFile:
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


def _format_of(first_bytes: bytes) -> type[ImageFile] | None:
    if (first_bytes[:4], first_bytes[8:]) == _WEBP:
        return WebPImageFile
    for prefix, image_file in _FORMATS:
        if first_bytes.startswith(prefix):
            return image_file
    return None


def _rgb_from_picture(picture: Image.Image, name: str) -> RGBImage:
    _check_and_load(picture, name)
    rgb, stored = _empty_upright(picture, (3,), np.uint8)
    for rows, strip in _strips_of(picture, name):
        stored[rows] = _rgb_of(strip, name)
    return rgb


def _check_and_load(picture: Image.Image, name: str) -> None:
    """Refuse what is no image to judge, before the cost of decoding it."""
    _check_size(picture.height, picture.width, name)
    _check_frames(picture, name)
    if picture.mode not in _COLOR_MODES | _DEEP_GRAY_MODES:
        raise ImageError(
            f"an image must be gray or in color, {name} has the mode {picture.mode}, "
            "which has no one way to RGB; export it as RGB"
        )
    with _pillow_errors_translated(name):
        picture.load()


def _check_size(height: int, width: int, name: str) -> None:
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


def _empty_upright(
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


def _orientation(picture: Image.Image) -> int:
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except _PILLOW_ERRORS:
        # Damaged metadata beside sound pixels: seen as stored, like in any viewer.
        return 1
    if isinstance(orientation, int) and orientation in _ORIENTATIONS:
        return orientation
    return 1


def _strips_of(picture: Image.Image, name: str) -> Iterator[tuple[slice, Image.Image]]:
    for rows in _strips(picture.height, picture.width):
        with _pillow_errors_translated(name):
            strip = picture.crop((0, rows.start, picture.width, rows.stop))
        yield rows, strip


def _strips(height: int, width: int) -> Iterator[slice]:
    n_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, n_rows):
        yield slice(top, min(top + n_rows, height))


def _rgb_of(strip: Image.Image, name: str) -> NDArray[np.uint8]:
    if strip.mode not in _DEEP_GRAY_MODES:
        return _colors_of(strip)
    values = np.asarray(strip)
    if strip.mode == "I":
        values = _as_16_bit(values, name)
    return _to_8_bit(values, name)[..., None]


def _mask_of(strip: Image.Image) -> Mask:
    is_deep = strip.mode in _DEEP_GRAY_MODES
    labels = np.asarray(strip) if is_deep else _colors_of(strip).max(axis=2)
    mask: Mask = labels > 0
    return mask


def _colors_of(strip: Image.Image) -> NDArray[np.uint8]:
    # Else Pillow warns that a palette's transparency is lost.
    strip.info.pop("transparency", None)
    return np.asarray(strip.convert("RGB"))


def _as_16_bit(values: NDArray[np.int32], name: str) -> NDArray[np.uint16]:
    """Narrow what Pillow reads as 32 bits, even from some 16-bit files."""
    limit = np.iinfo(np.uint16).max
    low, high = values.min(), values.max()
    if low < 0 or high > limit:
        raise ImageError(
            f"gray values must be from 0 to {limit}, {name} has values from {low} to "
            f"{high}; export it with 16 or 8 bits"
        )
    return values.astype(np.uint16)


def _rgb_from_array(array: NDArray[Any], name: str) -> RGBImage:
    is_stack = array.ndim == 3 and array.shape[2] in _ARRAY_CHANNELS  # noqa: PLR2004 - axes
    if array.ndim != 2 and not is_stack:  # noqa: PLR2004 - axes
        raise ImageError(
            "an image array needs the shape (height, width) or (height, width, "
            f"channels) with 1, 3 or 4 channels, {name} has {array.shape}; put the "
            "channels last"
        )
    height, width = array.shape[:2]
    _check_size(height, width, name)
    channels = (array if is_stack else array[..., None])[..., :3]
    rgb = np.empty((height, width, 3), np.uint8)
    for rows in _strips(height, width):
        rgb[rows] = _to_8_bit(channels[rows], name)
    return rgb


def _to_8_bit(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale values by their type alone."""
    kind, n_bytes = values.dtype.kind, values.dtype.itemsize
    if (kind, n_bytes) == ("u", 1):
        return values
    if (kind, n_bytes) == ("u", 2):
        # As Pillow does with 16-bit color.
        return (values >> 8).astype(np.uint8)
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind != "f":
        raise ImageError(
            "an image array needs uint8, uint16, bool or floating point values, "
            f"{name} has {values.dtype}; convert it, for example by .astype(np.uint8)"
        )
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # also where one is not a number
        raise ImageError(
            f"floating point pixels must be from 0 to 1, {name} has values from "
            f"{low:g} to {high:g}; divide by the largest possible value"
        )
    return (values * 255 + 0.5).astype(np.uint8)
