"""Images and masks as arrays: any file in, RGB uint8 out.

Cameras, scanners and editors write images of different depth, channels and orientation.
Here they become an `RGBImage`. The rules depend on the format and never on the content,
so that two images of the same part stay comparable:

    gray, 1-bit, palette     gray in all channels, or the palette's color
    alpha, a fourth channel  dropped: the colors are complete without it
    CMYK, YCbCr, HSV         converted without a color profile
    16-bit                   the upper 8 bits: 65535 becomes 255; or, with levels, from
                             the first to the second: (0, 4095) for 12 bits
    signed or 32-bit         as unsigned or 16-bit; other values are refused
    floating point           0 to 1 becomes 0 to 255
    EXIF orientation         applied, so that up is up
    several frames or pages  refused: it is not known which one is meant
    arrays and tensors       RGB, channels last, unless `as_rgb` is told otherwise
    TIFF                     with up to 8 bits, 16-bit unsigned and 32-bit floating
                             point in usual forms; others as gray or RGB without
                             compression, else refused

Decoding takes about 2.3 times the memory of the result, more for WebP and for TIFF of
more than 16 bits.
"""

import hashlib
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.errors import ImageError
from efficientad.images.decoding import (
    DEEP_GRAY_MODES,
    MAX_PIXELS,
    Picture,
    Strip,
    decode_upright,
    drops_bits,
    open_picture,
    opened_picture,
    require_lossless,
    require_size,
    strips,
)
from efficientad.images.levels import Levels, require_levels
from efficientad.method import sizes
from efficientad.settings import checked

RGBImage: TypeAlias = NDArray[np.uint8]
"""(height, width, 3)."""

Mask: TypeAlias = NDArray[np.bool_]
"""(height, width)."""

Labels: TypeAlias = NDArray[np.int32]
"""(height, width)."""

ColorOrder = Literal["rgb", "bgr"]
"""Order of the color channels of an array; OpenCV reads `bgr`."""

Layout = Literal["hwc", "chw"]
"""Order of the axes of an array; tensors are mostly `chw`, with the channels first."""


@runtime_checkable
class Readable(Protocol):
    """An open file of bytes."""

    def read(self) -> bytes:
        """Return the bytes up to the end."""
        ...


@runtime_checkable
class Tensor(Protocol):
    """An array of another library, such as PyTorch."""

    def __array__(self) -> NDArray[Any]:
        """Return the values as a NumPy array."""
        ...


ImageLike: TypeAlias = (
    str | Path | Image.Image | NDArray[Any] | bytes | Readable | Tensor
)
"""A file, its bytes, a Pillow image, an array or a tensor as `as_rgb` takes it."""

INPUT_SIZE: Final = sizes.INPUT_SIZE
"""Height and width of the networks' input, pixels; the paper's."""

_LABEL_MODES: Final = (DEEP_GRAY_MODES - {"F"}) | {"1", "L", "P"}


def read_image(
    path: str | Path, color: ColorOrder = "rgb", levels: Levels | None = None
) -> RGBImage:
    """Return the image in a file of any supported format, with its order of colors.

    Args:
        path: File of the image.
        color: Order in which the file has red, green and blue.
        levels: Values of a 16-bit image that become 0 and 255. None: 0 and 65535.

    Raises:
        ImageError: If there is no such file, it holds no image that can be used, or
            levels are given and it has 16 bits in color.
    """
    with opened_picture(Path(path)) as picture:
        image = _rgb_from_picture(picture, str(path), levels)
    return image if color == "rgb" else np.ascontiguousarray(image[:, :, ::-1])


def decode_image(content: bytes, name: str, levels: Levels | None = None) -> RGBImage:
    """Return the image in the bytes of a file, for example out of an archive.

    Raises:
        ImageError: If they are no image that can be used, as for `read_image`.
    """
    return _rgb_from_picture(open_picture(BytesIO(content), name), name, levels)


def read_mask(path: Path, background: tuple[int, int, int] = (0, 0, 0)) -> Mask:
    """Return which pixels of a file have another color than the background.

    Nothing is scaled: a label of 1 counts at any depth.

    Raises:
        ImageError: If there is no such file, it holds no image that can be used, the
            image is stored with loss, or it has values below zero or not a number, or
            16 bits in color.
    """
    with opened_picture(path) as picture:
        require_lossless(picture, path)
        if drops_bits(picture):
            raise ImageError(
                f"a mask in color must have 8 bits, {path} has 16; export it with 8"
            )
        return decode_upright(
            picture, str(path), partial(_mask_of, str(path), background), np.bool_
        )


def read_labels(path: Path) -> Labels:
    """Return the values of a gray file as they are stored, one for each defect type.

    Raises:
        ImageError: If there is no such file, or it holds no image that can be used, or
            one in color or stored with loss.
    """
    with opened_picture(path) as picture:
        require_lossless(picture, path)
        if picture.mode not in _LABEL_MODES:
            raise ImageError(
                f"a mask with a value for each defect type must be gray, {path} has "
                f"the mode {picture.mode}; export it with one channel"
            )
        return decode_upright(
            picture, str(path), partial(_labels_of, name=str(path)), np.int32
        )


def as_rgb(
    image: ImageLike,
    name: str = "the given image",
    *,
    color: ColorOrder = "rgb",
    layout: Layout = "hwc",
    levels: Levels | None = None,
) -> RGBImage:
    """Return any kind of image as a new RGB array, (height, width, 3), uint8.

    Args:
        image: A path; an open file or its bytes; a Pillow image; or an array or tensor
            of shape (height, width) or (height, width, channels) with 1, 3 or 4
            channels, the fourth being dropped. Array values are uint8, uint16 over the
            whole range, bool, or floating point from 0 to 1.
        name: Name in messages of an image that is no file.
        color: Order of the channels of an array: `rgb`, or `bgr` as OpenCV reads.
        layout: Order of the axes of an array: `hwc`, or `chw` with the channels first.
        levels: Values of a 16-bit image that become 0 and 255. None: 0 and 65535.

    Raises:
        ConfigError: If color or layout is another one, or levels are no range.
        ImageError: If it is none of these, smaller or larger than an image may be, or
            levels are given and it is a file with 16 bits in color.
    """
    color = checked("color", color, ColorOrder)
    layout = checked("layout", layout, Layout)
    levels = checked("levels", levels, Levels | None)
    require_levels(levels)
    if isinstance(image, Tensor) and not isinstance(image, Image.Image):
        values = _values_of_tensor(image, name)
        return _rgb_from_array(values, name, color, layout, levels)
    if (color, layout) != ("rgb", "hwc"):
        raise ImageError(
            f"color and layout describe an array or tensor, {name} is "
            f"{type(image).__name__}, which has its own colors; leave them out"
        )
    if isinstance(image, str | Path):
        return read_image(image, levels=levels)
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "")) or name
        return _rgb_from_picture(image, name, levels)
    content = image.read() if isinstance(image, Readable) else image
    if isinstance(content, bytes | bytearray | memoryview):
        return decode_image(bytes(content), str(getattr(image, "name", name)), levels)
    raise ImageError(
        f"{name} must be a path, bytes or an open file of an image, a Pillow image, an "
        f"array or a tensor, got {type(image).__name__}; convert it to one of these"
    )


def resize_image(image: RGBImage, height: int, width: int) -> RGBImage:
    """Return an image resized by Pillow's bilinear filter, which averages to shrink.

    Training, calibration and prediction all resize here. Columns are resized first,
    then rows, as in exported graphs: each pass rounds, and Pillow's own order depends
    on size and version. Rows are first only where the image in between would be larger
    than an image may be, as for millions of rows; exported graphs take 40 000 at most.
    """
    picture = Image.fromarray(image)
    rows = picture.height if picture.height * width <= MAX_PIXELS else height
    columns = width if rows == picture.height else picture.width
    for size in ((columns, rows), (width, height)):
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=None)
    return np.array(picture)


def image_hash(image: RGBImage) -> str:
    """Return the SHA-256 of shape and pixels, the same in any file format."""
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _rgb_from_picture(picture: Picture, name: str, levels: Levels | None) -> RGBImage:
    if levels is not None and drops_bits(picture):
        raise ImageError(
            f"levels of 16-bit images need gray ones, or arrays, {name} is a file in "
            "color, of which the upper 8 bits are read; record gray, or fill these bits"
        )
    convert = partial(_rgb_of, name=name, levels=levels)
    return decode_upright(picture, name, convert, np.uint8, (3,))


def _rgb_of(strip: Strip, name: str, levels: Levels | None) -> NDArray[np.uint8]:
    values = _values_of(strip)
    if values.dtype.kind in "iu" and values.dtype not in (np.uint8, np.uint16):
        unsigned = np.uint8 if values.dtype.itemsize == 1 else np.uint16
        limit, advice = np.iinfo(unsigned).max, "export it with 16 or 8 bits"
        _require_range(values, limit, "integer pixels", name, advice)
        values = values.astype(unsigned)
    rgb = _as_8_bit(values, name, levels)
    return rgb if rgb.ndim == 3 else rgb[..., None]  # noqa: PLR2004 - color


def _mask_of(name: str, background: tuple[int, int, int], strip: Strip) -> Mask:
    values = _values_of(strip)
    if not (values >= 0).all():
        raise ImageError(
            f"the values of a mask must be 0 or more, {name} has others, negative or "
            "not a number; export it with 8 bits"
        )
    channels = values[..., None] if values.ndim == 2 else values  # noqa: PLR2004 - gray
    mask: Mask = (channels != np.resize(background, channels.shape[2])).any(axis=2)
    return mask


def _labels_of(strip: Strip, name: str) -> NDArray[Any]:
    values = np.asarray(strip)
    limit, advice = np.iinfo(np.int32).max, "export it with 16 or 8 bits"
    _require_range(values, limit, "values of a mask", name, advice)
    return values


def _values_of(strip: Strip) -> NDArray[Any]:
    """Return the values of a gray strip with more than 8 bits, else its colors."""
    if isinstance(strip, Image.Image) and strip.mode not in DEEP_GRAY_MODES:
        strip.info.pop("transparency", None)  # Pillow would warn that it is lost
        strip = strip.convert("RGB")
    return np.asarray(strip)


def _values_of_tensor(tensor: Any, name: str) -> NDArray[Any]:
    """Return the values of an array or tensor, on any device, with or without grads."""
    try:
        held = tensor.detach().cpu() if hasattr(tensor, "detach") else tensor
        return np.asarray(held)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ImageError(
            f"an image tensor needs values that NumPy has, {name} has others "
            f"({error}); convert it to uint8 or float32"
        ) from error


def _rgb_from_array(
    array: NDArray[Any],
    name: str,
    color: ColorOrder,
    layout: Layout,
    levels: Levels | None,
) -> RGBImage:
    channels = array[..., None] if array.ndim == 2 else array  # noqa: PLR2004 - axes
    if layout == "chw" and array.ndim == 3:  # noqa: PLR2004
        channels = np.moveaxis(array, 0, -1)
    if channels.ndim != 3 or channels.shape[2] not in (1, 3, 4):  # noqa: PLR2004
        raise ImageError(
            "an image array needs the shape (height, width) or (height, width, "
            f"channels) with 1, 3 or 4 channels, {name} has {array.shape}; put the "
            "channels last, or say layout='chw'"
        )
    channels = channels[:, :, :3]
    if color == "bgr":
        channels = channels[:, :, ::-1]
    height, width = channels.shape[:2]
    require_size(height, width, name)
    rgb = np.empty((height, width, 3), np.uint8)
    for rows in strips(height, width):
        rgb[rows] = _as_8_bit(channels[rows], name, levels)
    return rgb


def _as_8_bit(
    values: NDArray[Any], name: str, levels: Levels | None
) -> NDArray[np.uint8]:
    """Return values scaled by the range of their type, those of 16 bits by levels."""
    kind, n_bytes = values.dtype.kind, values.dtype.itemsize
    if (kind, n_bytes) == ("u", 1):
        return values
    if (kind, n_bytes) == ("u", 2):
        if levels is not None:
            table = np.interp(np.arange(1 << 16), levels, (0, 255))
            scaled: NDArray[np.uint8] = (table + 0.5).astype(np.uint8)[values]
            return scaled
        return (values >> 8).astype(np.uint8)  # as Pillow does with 16-bit color
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind != "f":
        raise ImageError(
            "an image array needs uint8, uint16, bool or floating point values, "
            f"{name} has {values.dtype}; divide it by the largest possible value, such "
            "as 4095 for 12 bits"
        )
    advice = "divide by the largest possible value"
    _require_range(values, 1, "floating point pixels", name, advice)
    return (values * 255 + 0.5).astype(np.uint8)


def _require_range(
    values: NDArray[Any], limit: int, what: str, name: str, advice: str
) -> None:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= limit):  # also where one is not a number
        raise ImageError(
            f"{what} must be from 0 to {limit}, {name} has values from {low:g} to "
            f"{high:g}; {advice}"
        )
