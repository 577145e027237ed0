"""Temporary files and folders whose process was killed.

Their names begin with that of their process: its machine, its number and its time of
start, since a number is used again. What belongs to a process that lives stays.
"""

import functools
import hashlib
import os
import platform
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)\..+\.partial")
_DAY: Final = 24 * 60 * 60.0
# Field of a process's start in its `stat`, counted behind its name.
_START: Final = 19


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
