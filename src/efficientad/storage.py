"""Files and folders that are whole or not there: written aside, then moved into place.

What stood there before stays until the new file is complete. Processes that write the
same file do not meet: each writes beside it under a name of its own, and the last one
to be done stays. No torch here.
"""

import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from efficientad.errors import StorageError

_OWN_NUMBER: Final = secrets.token_hex(4)
"""Containers that share a folder number their processes alike."""


@contextmanager
def whole_file(path: Path, *, keeps_partial: bool = False) -> Iterator[Path]:
    """Give a place to write to, and move it to `path` when the block is done.

    Args:
        path: The file, or a link to it, which stays; its folder is made if it is not
            there. What is no file, like a pipe or `/dev/null`, is written as it comes.
        keeps_partial: Leave what was written so far where the block ends by an error,
            as `path` with the suffix `.partial`, until it is written whole.

    Raises:
        StorageError: If it cannot be written, for example on a full disk; what stood
            there stays.
    """
    if _is_device(path):
        with writing(path):
            yield path
        return
    place = Path(os.path.realpath(path))
    partial, kept = own_partial(place), place.with_name(f"{place.name}.partial")
    try:
        with writing(path):
            place.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(place)
            if keeps_partial:
                kept.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # it is there where the block ended by an error
            if keeps_partial:
                partial.replace(kept)
            else:
                partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, and move it to `path` when the block is done.

    Args:
        path: The folder, not there yet or empty; an empty one is replaced, so it must
            not be where another file system is mounted.

    Raises:
        StorageError: If it cannot be written, or if `path` holds something.
    """
    path = path.resolve()  # a link stays
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as place:
            folder = Path(place, path.name)
            folder.mkdir()
            yield folder
            if path.is_dir():
                path.rmdir()
            folder.replace(path)


@contextmanager
def writing(*paths: Path) -> Iterator[None]:
    """Say in one sentence that something cannot be written.

    Raises:
        StorageError: If that is so.
    """
    try:
        yield
    except StorageError:
        raise  # of another file, written meanwhile
    except OSError as error:
        names = " and ".join(map(str, paths))
        raise StorageError(
            f"cannot write {names} ({error.strerror or error}); check folder, "
            "permissions and free space, what stood there before is untouched"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        StorageError: As `whole_file`.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content)


def file_hash(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        StorageError: If it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(
            f"cannot read {path} ({error.strerror}); check the path and the permissions"
        ) from error


def require_writable(path: Path, *, may_be_device: bool = False) -> None:
    """Find out before hours are spent whether a result can be written.

    Args:
        path: The file to write.
        may_be_device: Whether it may also be a pipe or the like; a model may not.

    Raises:
        StorageError: If the folder of the path cannot take a file, or if the path is a
            folder itself.
    """
    if not may_be_device:
        require_no_device(path)
    probe = own_partial(Path(os.path.realpath(path)))
    try:
        if _is_device(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"cannot write to {path.parent} ({error.strerror or error}); choose "
            "another output"
        ) from error
    if path.is_dir():
        raise StorageError(f"{path} is a folder; give the name of a file to write")


def require_no_device(path: Path) -> None:
    """Refuse what is neither file nor folder, or a link to such: it would be replaced.

    Raises:
        StorageError: If it is that.
    """
    if _is_device(path):
        raise StorageError(f"{path} is no file; give the name of a file to write")


def own_partial(path: Path) -> Path:
    """Give a name beside a file that no other process uses."""
    return path.with_name(f"{path.name}.{os.getpid()}-{_OWN_NUMBER}.partial")


def _is_device(path: Path) -> bool:
    """Whether it is there and neither file nor folder."""
    try:
        return path.exists() and not (path.is_file() or path.is_dir())
    except OSError:  # of a folder on the way; told by whoever writes
        return False
