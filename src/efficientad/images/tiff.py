"""TIFF files: Pillow where it reads them exactly, else tifffile, else a refusal.

TIFF has far more forms than Pillow reads. It opens some of the others and returns wrong
pixels: uncompressed samples of 16 bits in separate planes, negatives of more than 8
bits, and compressed big-endian samples of 32 bits. `is_read_exactly` lists the forms
for Pillow. Outside of them, tifffile reads uncompressed gray and RGB of any depth.
"""

import math
from collections.abc import Sequence
from io import BufferedReader, BytesIO
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_N_COLORS: Final = {_BLACK_IS_ZERO: 1, _WHITE_IS_ZERO: 1, _RGB: 3}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_ASSOCIATED_ALPHA: Final = 1
_SEPARATE_PLANES: Final = 2
_MAX_EXTRA_SAMPLES: Final = 1
_MAX_BYTE: Final = 255
_IMAGE_DEPTH: Final = 32_997
"""Field of the number of layers of a volume."""
_JPEG: Final = {"jpeg", "tiff_jpeg"}


class TiffSamples:
    """Samples of a form that Pillow does not read exactly, still in their file."""

    def __init__(self, file: BufferedReader | BytesIO) -> None:
        pages = tifffile.TiffFile(file).pages
        page = pages.first
        self._page = page
        self._n_colors = _N_COLORS.get(page.photometric, 0)
        # A damaged file has texts and tuples in these fields.
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        self.is_animated = _has_second(pages)
        """Whether there are several pages."""
        self.orientation = int(page.tags.valueof(274, 1))
        """Orientation as in EXIF."""
        self.is_usable = self._is_usable()
        """Whether `read` can be called: gray or RGB, whole bytes, uncompressed."""

    @property
    def mode(self) -> str:
        """Mode as in Pillow: RGB, F or I."""
        if self._n_colors > 1:
            return "RGB"
        return "I" if self.n_integer_bits else "F"

    @property
    def n_integer_bits(self) -> int:
        """Bits of a sample, 0 for floating point."""
        dtype = np.dtype(self._page.dtype)
        return 0 if dtype.kind == "f" else 8 * dtype.itemsize

    def read(self) -> NDArray[Any]:
        """Return the samples as stored, (height, width) or (height, width, 3).

        Negatives are inverted. An extra sample, such as alpha, is dropped.

        Raises:
            ValueError: If the file is incomplete.
        """
        page = self._page
        parts = math.prod(page.chunked), len(page.dataoffsets), len(page.databytecounts)
        is_complete = len(set(parts)) == 1 and all(page.databytecounts)
        if not is_complete or sum(page.databytecounts) < page.nbytes:
            raise ValueError("incomplete strips or tiles")
        samples: NDArray[Any] = page.asarray(maxworkers=1, squeeze=False)
        # Planes, depth, rows, columns, samples; one of planes and samples is 1.
        samples = np.moveaxis(samples, 0, -2)[0].reshape(self.height, self.width, -1)
        if page.photometric == _WHITE_IS_ZERO:
            samples = np.iinfo(samples.dtype).max - samples
        return samples[..., :3] if self._n_colors > 1 else samples[..., 0]

    @property
    def form(self) -> str:
        """The form in the words of the TIFF specification, for a message."""
        page = self._page
        words = [
            f"{page.bitspersample} bits",
            _word(page.photometric),
            f"compression {_word(page.compression)}",
            f"{page.samplesperpixel} samples",
            *map(_word, page.extrasamples),
        ]
        if page.sampleformat != _UNSIGNED:
            words.append(_word(page.sampleformat))
        if page.planarconfig == _SEPARATE_PLANES:
            words.append("separate planes")
        if page.imagedepth > 1:
            words.append(f"{page.imagedepth} layers of a volume")
        return ", ".join(words)

    def _is_usable(self) -> bool:
        page = self._page
        n_extra = page.samplesperpixel - self._n_colors
        is_negative = page.photometric == _WHITE_IS_ZERO
        return (
            page.compression == 1
            and self._n_colors > 0
            and page.imagedepth == 1
            and page.dtype is not None
            and page.dtype.kind in "iuf"
            and page.bitspersample == 8 * page.dtype.itemsize
            and not (is_negative and page.dtype not in (np.uint8, np.uint16))
            and 0 <= n_extra <= _MAX_EXTRA_SAMPLES
            and _ASSOCIATED_ALPHA not in page.extrasamples
        )


def open_tiff(file: BufferedReader | BytesIO) -> TiffImageFile | TiffSamples:
    """Return the image in a TIFF file; its pixels are not decoded yet."""
    try:
        picture = TiffImageFile(file)
    except SyntaxError:  # Pillow knows no such form
        picture = None
    if picture is not None and is_read_exactly(picture):
        return picture
    file.seek(0)
    return TiffSamples(file)


def is_read_exactly(picture: TiffImageFile) -> bool:
    """Return whether Pillow reads the form of a TIFF file as the file means it.

    Each form in this list, except JPEG, is compared with tifffile's in the tests.
    """
    tags = picture.tag_v2
    photometric = tags.get(262, _WHITE_IS_ZERO)
    compression = picture.info.get("compression")
    is_compressed = compression != "raw"
    is_chunky = tags.get(284, 1) != _SEPARATE_PLANES
    bits = max(tags.get(258, (1,)))
    (sample_format, *others) = set(tags.get(339, (_UNSIGNED,)))
    extra = tags.get(338, ())
    is_usual = (
        not others
        and tags.get(_IMAGE_DEPTH, 1) == 1
        and len(extra) <= _MAX_EXTRA_SAMPLES
        and _ASSOCIATED_ALPHA not in extra
        and (is_compressed or is_chunky)
    )
    if not is_usual:
        return False
    if photometric == _YCBCR:
        return compression in _JPEG and is_chunky
    if sample_format == _UNSIGNED and bits <= 8:  # noqa: PLR2004 - a byte
        if photometric == _PALETTE:  # some files have 8 bits where 16 belong
            colors: tuple[int, ...] = tags.get(320, (0,))
            return max(colors) > _MAX_BYTE
        return photometric in {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK}
    if (sample_format, bits) == (_UNSIGNED, 16):
        return photometric in {_BLACK_IS_ZERO, _RGB, _CMYK}
    is_deep = (sample_format, bits) in {(_SIGNED, 16), (_SIGNED, 32), (_FLOAT, 32)}
    has_native_order = tags.prefix == b"II" or not is_compressed
    return photometric == _BLACK_IS_ZERO and is_deep and has_native_order


def _has_second(pages: Sequence[Any]) -> bool:
    """Return whether there is a second page; the others are not looked for."""
    try:
        pages[1]
    except IndexError:
        return False
    return True


def _word(value: Any) -> str:
    """Return the word of tifffile for the value of a field, if it has one."""
    return str(getattr(value, "name", value)).lower()
