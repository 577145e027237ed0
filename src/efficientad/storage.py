"""Atomic writes: a file or folder is there completely, or what was there before stays.

A result is written beside its place, then moved there. Processes that write the same
file do not disturb each other: each has a temporary name of its own, and the last one
to finish wins. No torch here.
"""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from efficientad.errors import StorageError

# Beside the process number, which may be the same in containers that share a folder.
_PROCESS_TOKEN: Final = secrets.token_hex(4)


@contextmanager
def atomic_write(path: Path, *, keeps_partial: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, and move that file to `path` at the end.

    Args:
        path: File to write; its folder is made if needed. If it is a link, the file
            behind it is replaced. A device or pipe is written directly.
        keeps_partial: If the block fails, keep what it wrote as `path` with the suffix
            `.partial`, until the file is written completely.

    Raises:
        StorageError: If the file cannot be written, for example on a full disk.
    """
    if _is_device(path):
        with storage_errors(path):
            yield path
        return
    place = Path(os.path.realpath(path))
    temporary = temporary_path(place)
    partial = place.with_name(f"{place.name}.partial")
    try:
        with storage_errors(path):
            place.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(place)
            if keeps_partial:
                partial.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # the file exists only if the block failed
            if keeps_partial:
                temporary.replace(partial)
            else:
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, and move it to `path` at the end.

    Args:
        path: Folder that does not exist or is empty; it cannot be a mount point.

    Raises:
        StorageError: If the folder cannot be written, or `path` is not empty.
    """
    path = path.resolve()  # a link stays
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as place:
            folder = Path(place, path.name)
            folder.mkdir()
            yield folder
            if path.is_dir():
                path.rmdir()
            folder.replace(path)


@contextmanager
def storage_errors(*paths: Path) -> Iterator[None]:
    """Raise a `StorageError` that names the paths where the block raises `OSError`."""
    try:
        yield
    except StorageError:
        raise  # about another file, written in the block
    except OSError as error:
        names = " and ".join(map(str, paths))
        raise StorageError(
            f"cannot write {names} ({error.strerror or error}); check folder, "
            "permissions and free space, the previous content is untouched"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by `atomic_write`, which raises `StorageError` if it cannot."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def file_hash(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        StorageError: If the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(
            f"cannot read {path} ({error.strerror}); check the path and the permissions"
        ) from error


def require_writable(path: Path, *, may_be_device: bool = False) -> None:
    """Raise if a result could not be written, before hours are spent on computing it.

    Args:
        path: File to write.
        may_be_device: Whether a device or pipe is accepted, as for a report.

    Raises:
        StorageError: If its folder cannot take a file, or the path is a folder itself.
    """
    if not may_be_device:
        require_no_device(path)
    elif _is_device(path):
        return
    probe = temporary_path(Path(os.path.realpath(path)))
    try:
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
    """Raise `StorageError` if a path is a device or pipe: a write would replace it."""
    if _is_device(path):
        raise StorageError(f"{path} is no file; give the name of a file to write")


def temporary_path(path: Path) -> Path:
    """Return a path beside a file that no other process uses."""
    return path.with_name(f"{path.name}.{os.getpid()}-{_PROCESS_TOKEN}.partial")


def _is_device(path: Path) -> bool:
    try:
        return path.exists() and not (path.is_file() or path.is_dir())
    except OSError:  # no access to a folder above it: the write will say so
        return False
