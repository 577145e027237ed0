"""Masks must be stored without loss: nobody knows which values of a JPEG are noise."""

from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Final

from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from efficientad.errors import ImageError

_LOSSY_COMPRESSIONS: Final = frozenset({"jpeg", "tiff_jpeg", "webp"})
"""Pillow's names of those that a TIFF may have."""


def require_lossless(picture: object, path: Path) -> None:
    """Raise `ImageError` if an opened mask was stored with loss.

    The content of the file decides, never its name.
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


def _is_lossy_webp(file: BufferedReader | BytesIO) -> bool:
    """Return whether one of the chunks of a WebP file holds lossy pixels."""
    file.seek(12)
    while len(header := file.read(8)) == 8:  # noqa: PLR2004 - name and length
        if header[:4] == b"VP8 ":
            return True
        length = int.from_bytes(header[4:], "little")
        file.seek(length + length % 2, 1)
    return False
