"""Images in tar files: whole files, and no image left out."""

import tarfile
from io import SEEK_END
from pathlib import PurePosixPath
from typing import IO, Any, Final

from efficientad.errors import DatasetError
from efficientad.images.listing import IMAGE_SUFFIXES

_BLOCK: Final = 512


def require_end(file: IO[bytes] | Any) -> None:
    """Raise `EOFError` if a tar file has no end: Python would take it for whole."""
    n_bytes = file.seek(0, SEEK_END)
    file.seek(max(0, n_bytes - _BLOCK))
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise EOFError("it ends in the middle")
    file.seek(0)


def is_hidden(name: str) -> bool:
    """Return whether the name of a file begins with a dot."""
    return PurePosixPath(name).name.startswith(".")


def has_image_suffix(member: tarfile.TarInfo) -> bool:
    """Return whether a member of a tar file has the name of an image.

    Raises:
        DatasetError: If it is a link, whose image may lie elsewhere.
    """
    if is_hidden(member.name):
        return False
    has_suffix = PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES
    if has_suffix and (member.islnk() or member.issym()):
        raise DatasetError(
            f"images were needed in a tar file, {member.name} is a link there; pack "
            "the files that links lead to in place of the links"
        )
    return has_suffix
