"""The most memory that a process ever had."""

import resource
import sys
from pathlib import Path
from typing import Final

from efficientad.errors import ConfigError

_KIB_PER_MIB: Final = 1024
_PROCESSES: Final = Path("/proc")


def own_peak_mib() -> float:
    """Give the most memory this process ever had, MiB, and no other's."""
    peak = _told("self")
    if peak is not None:
        return peak
    # Not where the system tells it: a child's begins with its parent's.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS.
    return peak / (2**20 if sys.platform == "darwin" else _KIB_PER_MIB)


def peak_mib(process: int) -> float:
    """Give the most memory another running process ever had, MiB.

    Args:
        process: Its number.

    Raises:
        ConfigError: If the system does not tell.
    """
    peak = _told(str(process))
    if peak is None:
        raise ConfigError(
            "the memory of another process needs a system that tells it in "
            f"{_PROCESSES}; leave it out with --no-memory"
        )
    return peak


def _told(process: str) -> float | None:
    path = _PROCESSES / process / "status"
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in lines:
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) / _KIB_PER_MIB
    return None
