"""Images and folders in a folder, in the same order on every machine.

Hidden files and folders, whose names begin with a dot, are left out.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from efficientad.errors import DatasetError

IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
)

_N_NAMES_SHOWN: Final = 5


def find_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the image files in a folder, known by their suffix, in sorted order.

    Args:
        folder: Folder to search.
        recursive: Search the folders below it as well, except linked ones.

    Raises:
        DatasetError: If there is no such folder, or it cannot be listed.
    """
    found = _walk(folder, recursive=recursive)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, in sorted order.

    Raises:
        DatasetError: If it cannot be listed.
    """
    return sorted(entry for entry in _entries(folder) if entry.is_dir())


def describe_contents(folder: Path) -> str:
    """Return how many images a folder and its subfolders hold, for a message."""
    n_images = len(find_images(folder))
    text = f"{n_images or 'no'} image{'' if n_images == 1 else 's'}"
    inner = [f"{path.name} ({len(find_images(path))})" for path in subfolders(folder)]
    if not inner:
        return text
    return f"{text} and the folders {join_names(inner)} (images in them)"


def join_names(names: Iterable[str]) -> str:
    """Return the first five names, and how many more there are, for a message."""
    listed = list(names)
    text = ", ".join(listed[:_N_NAMES_SHOWN])
    n_more = len(listed) - _N_NAMES_SHOWN
    return f"{text} and {n_more} more" if n_more > 0 else text


def _walk(folder: Path, *, recursive: bool) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
            yield entry
        elif recursive and entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, recursive=True)


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DatasetError(
            f"a folder of images was needed, {folder} cannot be listed "
            f"({error.strerror}); check the path and the permissions"
        ) from error
