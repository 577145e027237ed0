"""The most memory that a process ever had."""

import resource
import sys
from pathlib import Path
from typing import Final

_KIB_PER_MIB: Final = 1024
_STATUS: Final = Path("/proc/self/status")


def own_peak_mib() -> float:
    """Give the most memory this process ever had, MiB, and no other's."""
    # Not `ru_maxrss` where there is another: a child begins with its parent's.
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM":
                return int(value.split()[0]) / _KIB_PER_MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS.
    return peak / (2**20 if sys.platform == "darwin" else _KIB_PER_MIB)
