"""Images and folders in a folder, in the same order on every machine.

An image is a regular file with the suffix or the first bytes of a readable format.
Hidden files and folders, whose names begin with a dot, are left out, and so is what
operating systems leave in folders. Linked folders are searched once.
"""

import logging
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from efficientad.errors import DatasetError
from efficientad.images.decoding import N_FIRST_BYTES, begins_as_image

OnError: TypeAlias = Callable[[Path, DatasetError], None]
"""Function called with each folder that cannot be listed, and the error."""

IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
)
"""Suffixes of files that are always taken for images, so that damaged ones are named.
A file with another suffix, or with none, is one if it begins as one."""

_TEXTS: Final = frozenset(
    {
        *(".csv", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".rst"),
        *(".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml"),
    }
)
# A raw photograph is a TIFF, and what can be read of it is its preview.
_RAW: Final = frozenset(
    {
        *(".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef"),
        *(".mos", ".nef", ".nrw", ".pef", ".srw"),
    }
)
_RUBBISH: Final = frozenset(
    {
        *(".ds_store", "desktop.ini", "ehthumbs.db", "thumbs.db"),
        *("$recycle.bin", "@eadir", "__macosx", "system volume information"),
    }
)

_N_NAMES_SHOWN: Final = 5
_WILDCARDS: Final = frozenset("*?[")

logger = logging.getLogger(__name__)


def find_images(
    folder: Path, *, recursive: bool = False, on_error: OnError | None = None
) -> list[Path]:
    """Return the image files in a folder, or also below it, in sorted order.

    `on_error` is called with each folder that cannot be listed, instead of an error.

    Raises:
        DatasetError: If there is no such folder, or one cannot be listed.
    """
    entries = walk(folder, on_error) if recursive else map(Path, _entries(folder))
    found = filter(_is_image, entries)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def expanded(path: Path) -> list[Path]:
    """Return the paths that a pattern such as `parts/*.png` matches, in sorted order.

    Hidden ones, and what lies in a folder that it matches, are left out. A path that is
    there, or matches nothing, is returned as it is.
    """
    if not _WILDCARDS.intersection(str(path)) or _status(path) is not None:
        return [path]
    pattern = path.relative_to(path.anchor)
    try:
        found = sorted(Path(path.anchor or ".").glob(str(pattern)))
    except ValueError:  # no pattern, such as `**.png`
        return [path]
    inside = {each for each in found if each.is_dir()}
    found = [each for each in found if inside.isdisjoint(each.parents)]
    is_hidden = path.name.startswith(".")
    return [p for p in found if is_hidden or not p.name.startswith(".")] or [path]


def images_at(path: Path) -> list[Path]:
    """Return the images of a folder at any depth, of a pattern, or the one at a path.

    A warning names what else lies in a folder.

    Raises:
        DatasetError: If there is none in a folder, or one cannot be listed.
    """
    paths = expanded(path)
    found = [
        image
        for each in paths
        for image in (find_images(each, recursive=True) if each.is_dir() else [each])
    ]
    if not found:
        raise DatasetError(f"images were needed in {path}, there are none; check it")
    for folder in filter(Path.is_dir, paths):
        if unused := unused_files(folder, found):
            logger.warning(unused)
    return found


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, in sorted order.

    Raises:
        DatasetError: If it cannot be listed.
    """
    inner = (Path(entry) for entry in _entries(folder) if _is_folder(entry))
    return sorted(path for path in inner if not _is_hidden(path))


def unused_files(
    folder: Path, used: Iterable[Path], *, apart: Iterable[Path] = ()
) -> str:
    """Return how many files below a folder are not used, by kind, for a message.

    It is empty if all files are used, by any path that leads to them, or texts, such as
    a readme. Folders that are `apart` do not count.
    """
    paths = set(used)
    known = {_identity(path) for path in paths} - {None}
    kinds: Counter[str] = Counter()

    def note(folder: Path, _error: DatasetError) -> None:
        kinds["folders that cannot be listed"] += folder not in paths

    place, others = folder.resolve(), [Path(os.path.realpath(p)) for p in apart]
    for entry in walk(folder, note):
        inner = place / entry.relative_to(folder)
        is_apart = any(inner.is_relative_to(other) for other in others)
        is_used = entry in paths or _identity(entry) in known
        if not is_apart and not is_used:
            kinds[_kind(entry, folder)] += 1
    if kinds.keys() <= {"texts"}:
        return ""
    named = join_names(f"{kind} ({n})" for kind, n in kinds.most_common())
    return f"not used of {folder}: {named}; {kinds.total()} in all"


def walk(folder: Path, on_error: OnError | None = None) -> Iterator[Path]:
    """Yield all files in a folder and below it, in no order.

    Pipes, devices, broken links, hidden folders, and links to a folder that they lie in
    are yielded as well, not entered. Other links to folders are followed, after all
    folders themselves, so that each folder is searched once. `on_error` is called with
    each folder that cannot be listed, instead of an error.
    """
    waiting, links, seen = deque([folder]), deque[Path](), set[tuple[int, int] | None]()
    while waiting or links:
        place = waiting.popleft() if waiting else links.popleft()
        if (identity := _identity(place)) in seen and identity is not None:
            continue
        seen.add(identity)
        try:
            entries = _entries(place)
        except DatasetError as error:
            if on_error is None:
                raise
            on_error(place, error)
            continue
        for entry in entries:
            path, is_link = Path(entry), entry.is_symlink()
            is_loop = is_link and _is_loop(path)
            if not _is_folder(entry) or _is_hidden(path) or is_loop:
                yield path
            else:
                (links if is_link else waiting).append(path)


def fault_of(path: Path, *, is_file: bool = False) -> str:
    """Return why a file or folder cannot be used, for a message; empty if it can.

    If it must be a file, a folder, pipe or device is refused as well.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "there is none"
    except (OSError, ValueError) as error:
        return f"it cannot be reached ({getattr(error, 'strerror', None) or error})"
    return "that is no file" if is_file and not stat.S_ISREG(mode) else ""


def describe_contents(folder: Path) -> str:
    """Return how many images and unreadable formats a folder holds, for a message.

    Images of its subfolders are counted as well.
    """
    n_images = len(find_images(folder))
    text = f"{n_images or 'no'} image{'' if n_images == 1 else 's'}"
    kinds = Counter(
        _kind(Path(e), folder) for e in _entries(folder) if not _is_folder(e)
    )
    others = [f"{n} {kind}" for kind, n in kinds.items() if kind.startswith(".")]
    if others:
        text = f"{text}, {join_names(others)}"
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


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return [
                entry
                for entry in entries
                if entry.name.lower() not in _RUBBISH
                and not entry.name.startswith("._")
            ]
    except OSError as error:
        raise DatasetError(
            f"a folder of images was needed, {folder} cannot be listed "
            f"({error.strerror}); check the path and the permissions"
        ) from error


def _is_image(entry: Path) -> bool:
    """Return whether an entry is an image, or would be if it could be reached."""
    suffix, status = entry.suffix.lower(), _status(entry)
    if _is_hidden(entry) or not (status is None or stat.S_ISREG(status.st_mode)):
        return False
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in _TEXTS | _RAW:
        return False
    try:
        with entry.open("rb") as file:
            return begins_as_image(file.read(N_FIRST_BYTES))
    except OSError:
        return False


def _is_hidden(entry: Path) -> bool:
    return entry.name.startswith(".")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def _is_loop(link: Path) -> bool:
    """Return whether a link leads to a folder that it lies in, on any path."""
    above = [*link.absolute().parents, *(link.parent.resolve() / link.name).parents]
    identity = _identity(link)
    return identity is not None and identity in map(_identity, above)


def _status(path: Path) -> os.stat_result | None:
    """Return the status of a file or folder; None if it cannot be reached."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and number of a file or folder; None if it cannot be reached."""
    status = _status(path)
    return None if status is None else (status.st_dev, status.st_ino)


def _kind(entry: Path, folder: Path) -> str:
    suffix, status = entry.suffix.lower(), _status(entry)
    has_kind = re.fullmatch(r"\.\w*[a-z]\w*", suffix)
    kind = f"{suffix} files" if has_kind else "other files"
    if _is_hidden(entry):
        kind = "hidden files and folders"
    elif _is_image(entry):
        inner = entry.relative_to(folder).parts[:-1][:2]
        kind = f"images in {'/'.join(inner)}" if inner else "images"
    elif status is None:
        kind = "files that cannot be reached"
    elif stat.S_ISDIR(status.st_mode):
        kind = "links to a folder above them"
    elif not stat.S_ISREG(status.st_mode):
        kind = "pipes and devices"
    elif suffix in _TEXTS:
        kind = "texts"
    return kind
