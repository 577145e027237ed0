"""Native building blocks that make the networks faster, never different.

A forked process has no thread but one. GNU's OpenMP does not know that: in the child it
waits for the threads of the parent for ever. Here they end before each fork, on Linux,
and parent and child start new ones as needed. Other implementations of OpenMP see to it
themselves.
"""

import ctypes
import os
from pathlib import Path

_MAPPED = Path("/proc/self/maps")
_SOFT = 1  # OpenMP's `omp_pause_soft`: settings stay


def _end_threads() -> None:
    lines = _MAPPED.read_text().splitlines()
    # PyTorch brings a library of its own.
    for path in {line.split(maxsplit=5)[-1] for line in lines if "/libgomp" in line}:
        ctypes.CDLL(path).omp_pause_resource_all(_SOFT)


if _MAPPED.is_file():
    os.register_at_fork(before=_end_threads)
