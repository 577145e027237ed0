"""Peak memory of a process."""

import resource
import sys
from pathlib import Path
from typing import Final

from efficientad.errors import ConfigError

_KIB_PER_MIB: Final = 1024
_PROCESSES: Final = Path("/proc")


def own_peak_mib() -> float:
    """Return the peak memory of this process, MiB."""
    peak = _reported("self")
    if peak is not None:
        return peak
    # Only as a fallback: the value of a child begins with that of its parent.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS.
    return peak / (2**20 if sys.platform == "darwin" else _KIB_PER_MIB)


def peak_mib(process: int) -> float:
    """Return the peak memory of another running process, MiB.

    Args:
        process: Process number.

    Raises:
        ConfigError: If the system does not report it.
    """
    peak = _reported(str(process))
    if peak is None:
        raise ConfigError(
            "the memory of another process needs a system that reports it in "
            f"{_PROCESSES}; leave it out with --no-memory"
        )
    return peak


def _reported(process: str) -> float | None:
    path = _PROCESSES / process / "status"
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in lines:
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) / _KIB_PER_MIB
    return None
