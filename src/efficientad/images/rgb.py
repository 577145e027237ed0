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
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.errors import ImageError
from efficientad.images.decoding import (
    DEEP_GRAY_MODES,
    check_and_load,
    check_size,
    empty_upright,
    open_picture,
    opened_file,
    strips,
    strips_of,
)

RGBImage: TypeAlias = NDArray[np.uint8]
"""(height, width, 3)."""

Mask: TypeAlias = NDArray[np.bool_]
"""(height, width)."""

Labels: TypeAlias = NDArray[np.int32]
"""(height, width)."""

ImageLike: TypeAlias = str | Path | Image.Image | NDArray[Any]
"""A file, a picture opened with Pillow, or an array as `as_rgb` takes it."""

INPUT_SIZE: Final = 256
"""Height and width of the networks' input, pixels; the paper's."""

_LABEL_MODES: Final = (DEEP_GRAY_MODES - {"F"}) | {"1", "L", "P"}

_ARRAY_CHANNELS: Final = (1, 3, 4)


def read_image(path: str | Path) -> RGBImage:
    """Read an image file of any supported format.

    Raises:
        ImageError: If there is no such file, or it holds no image that can be used.
    """
    name = str(path)
    with opened_file(Path(path)) as file:
        return _rgb_from_picture(open_picture(file, name), name)


def decode_image(content: bytes, name: str) -> RGBImage:
    """Decode the bytes of an image file that came over a network or out of an archive.

    Args:
        content: All bytes of the file.
        name: What messages call it.

    Raises:
        ImageError: If they are no image that can be used.
    """
    return _rgb_from_picture(open_picture(BytesIO(content), name), name)


def read_mask(path: Path) -> Mask:
    """Read a mask: true where the stored value, or any color, is above zero.

    Nothing is scaled, so that a label of 1 counts at any depth.

    Raises:
        ImageError: If there is no such file, or it holds no image that can be used.
    """
    name = str(path)
    with opened_file(path) as file:
        picture = open_picture(file, name)
        check_and_load(picture, name)
        mask, stored = empty_upright(picture, (), np.bool_)
        for rows, strip in strips_of(picture, name):
            stored[rows] = _mask_of(strip)
    return mask


def read_labels(path: Path) -> Labels:
    """Read a mask whose values tell defect types apart, as they are stored.

    Raises:
        ImageError: If there is no such file, it holds no image that can be used, or
            that is in color.
    """
    name = str(path)
    with opened_file(path) as file:
        picture = open_picture(file, name)
        if picture.mode not in _LABEL_MODES:
            raise ImageError(
                f"a mask with a value for each defect type must be gray, {name} has "
                f"the mode {picture.mode}; export it with one channel"
            )
        check_and_load(picture, name)
        labels, stored = empty_upright(picture, (), np.int32)
        for rows, strip in strips_of(picture, name):
            stored[rows] = np.asarray(strip)
    return labels


def stored_mode(path: Path) -> str:
    """Tell how an image file stores its pixels, in Pillow's words such as L or RGB.

    Raises:
        ImageError: If there is no such file, or it holds no image.
    """
    with opened_file(path) as file:
        return open_picture(file, str(path)).mode


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


def image_hash(image: RGBImage) -> str:
    """Hash shape and pixels: equal for the same picture in another file or format."""
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _rgb_from_picture(picture: Image.Image, name: str) -> RGBImage:
    check_and_load(picture, name)
    rgb, stored = empty_upright(picture, (3,), np.uint8)
    for rows, strip in strips_of(picture, name):
        stored[rows] = _rgb_of(strip, name)
    return rgb


def _rgb_of(strip: Image.Image, name: str) -> NDArray[np.uint8]:
    if strip.mode not in DEEP_GRAY_MODES:
        return _colors_of(strip)
    values = np.asarray(strip)
    if strip.mode == "I":
        values = _as_16_bit(values, name)
    return _to_8_bit(values, name)[..., None]


def _mask_of(strip: Image.Image) -> Mask:
    is_deep = strip.mode in DEEP_GRAY_MODES
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
    check_size(height, width, name)
    channels = (array if is_stack else array[..., None])[..., :3]
    rgb = np.empty((height, width, 3), np.uint8)
    for rows in strips(height, width):
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
