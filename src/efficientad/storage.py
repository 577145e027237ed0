"""Atomic writes: a file or folder is there completely, or what was there before stays.

A result is written beside its place, synchronized to the disk, then moved there.
Processes that write the same file do not disturb each other: each has a temporary name
of its own, and the last one to finish wins.

A temporary name begins with that of its process: its machine, its number and its time
of start, since a number is used again. The next process that writes to the folder
removes what killed ones left. No torch here.
"""

import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Final

from efficientad.errors import StorageError

_NAME: Final = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)\..+\.partial")
_DAY: Final = 24 * 60 * 60.0
# Field of a process's start in its `stat`, counted behind its name.
_START: Final = 19


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
            remove_leftovers(place.parent)
            yield temporary
            move(temporary, place)
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

    That cannot be a mount point. An empty folder there hands on its permissions.

    Raises:
        StorageError: If the folder cannot be written, or `path` is not empty.
    """
    path = Path(os.path.realpath(path))  # a link stays
    with storage_errors(path), temporary_folder(path.parent) as place:
        folder = place / path.name
        folder.mkdir()
        yield folder
        if path.is_dir():
            shutil.copymode(path, folder)
            path.rmdir()
        move(folder, path)


@contextmanager
def files_together(targets: Sequence[Path]) -> Iterator[Path]:
    """Yield a folder to write files to, and move all of them into place, or none.

    A model of OpenVINO is two files; one of them beside the other's predecessor would
    be no model at all.

    The block writes them under the same names. It raises its own errors: not all of
    them are about writing. If all targets are links, the files behind them are
    replaced.

    Raises:
        StorageError: If one cannot be moved; the previous files stay.
    """
    for target in targets:
        require_no_device(target)
    with storage_errors(*targets):
        places = list(targets)
        if all(target.is_symlink() for target in targets):
            # One link alone would part the file behind it from the other.
            places = [Path(os.path.realpath(target)) for target in targets]
    with ExitStack() as stack:
        with storage_errors(*targets):
            folder = stack.enter_context(temporary_folder(places[-1].parent))
        yield folder
        with storage_errors(*targets):
            _move_together([folder / target.name for target in targets], places)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a folder in another one, made if needed, that is removed at the end.

    Raises:
        OSError: If it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    prefix = f".{process_name()}."
    with tempfile.TemporaryDirectory(".partial", prefix, parent) as name:
        yield Path(name)


def move(new: Path, place: Path) -> None:
    """Move a file or folder into place, so that it stays there if the power fails.

    A file that is replaced hands on its permissions.

    Raises:
        OSError: If it cannot be moved; what was in the place stays.
    """
    if place.is_file():
        shutil.copymode(place, new)
    for path in (new, *new.rglob("*")):
        synchronize(path)
    new.replace(place)
    with suppress(OSError):  # it is in place; some file systems cannot do this
        synchronize(place.parent)


def _move_together(written: Sequence[Path], places: Sequence[Path]) -> None:
    *others, (new_last, last) = zip(written, places, strict=True)
    with ExitStack() as undo:  # also after Ctrl-C
        for new, place in others:
            previous = new.with_name(f"{new.name}.previous")
            undo.callback(_put_back, place, previous, new)
            if place.is_file():
                shutil.copymode(place, new)
                place.replace(previous)
            move(new, place)
        try:
            move(new_last, last)
        finally:
            if not new_last.exists():  # it was moved
                undo.pop_all()


def _put_back(place: Path, previous: Path, new: Path) -> None:
    """Undo an exchange, however far it came."""
    if os.path.lexists(previous):
        previous.replace(place)
    elif not new.exists():
        place.unlink()


def synchronize(path: Path) -> None:
    """Write what the system still holds of a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read bytes; a pipe or device would be waited for.

    Raises:
        OSError: If it cannot be opened, or is no regular file.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or device")
    return path.open("rb")


def file_hash(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        StorageError: If the file cannot be read.
    """
    try:
        with open_regular(Path(path)) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(
            f"cannot read {path} ({error.strerror}); check the path and the permissions"
        ) from error


def require_writable(path: Path, *, may_be_device: bool = False) -> None:
    """Raise `StorageError` if a result could not be written, before hours are spent.

    That is so if its folder cannot take a file, or the path is a folder itself.
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
    """Return a path beside a file that no other process uses, whatever its name."""
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{process_name()}.{name}.partial")


def _is_device(path: Path) -> bool:
    try:
        return path.exists() and not (path.is_file() or path.is_dir())
    except OSError:  # no access to a folder above it: the write will say so
        return False


def process_name() -> str:
    """Return a short name of this process that no other one has, on any machine."""
    return f"{_machine()}-{os.getpid()}-{_start_of('self') or 0}"


@functools.cache
def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder; a process does this once.

    Of processes on other machines, or where the system does not show processes, what
    nobody has changed for a day is removed.
    """
    with suppress(OSError):  # a folder that cannot be read: the write will say so
        for entry in os.scandir(folder):
            name = _NAME.fullmatch(entry.name)
            if name is None or _is_alive(entry, *name.groups()):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                Path(entry).unlink(missing_ok=True)


def _is_alive(entry: "os.DirEntry[str]", machine: str, number: str, start: str) -> bool:
    """Return whether the process of a temporary file is at work, or may be."""
    if machine == _machine() and _start_of("self") is not None:
        return _start_of(number) == start
    return time.time() - entry.stat(follow_symlinks=False).st_mtime < _DAY


@functools.cache
def _machine() -> str:
    """Return eight digits for a machine since its start, and a container on it."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


def _start_of(process: str) -> str | None:
    """Return the time of a process's start; None if there is no such process."""
    try:
        told = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    return told.rpartition(")")[2].split()[_START]
