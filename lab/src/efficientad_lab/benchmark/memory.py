"""Peak memory of processes."""

import os
import resource
import sys
from pathlib import Path
from typing import Final

from efficientad.errors import ConfigError

_KIB_PER_MIB: Final = 1024
_PROCESSES: Final = Path("/proc")


def own_peak_mib() -> float:
    """Return the peak memory of this process, MiB."""
    status = _status("self")
    if "VmHWM" in status:
        return _mib(status["VmHWM"])
    # Only as a fallback: the value of a child begins with that of its parent.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS.
    return peak / (2**20 if sys.platform == "darwin" else _KIB_PER_MIB)


def peak_mib(process: int) -> float:
    """Return the peak memory of another running process, MiB.

    Raises:
        ConfigError: If the system does not report it.
    """
    status = _status(str(process))
    if "VmHWM" not in status:
        raise ConfigError(
            "the memory of another process needs a system that reports it in "
            f"{_PROCESSES}; leave it out with --no-memory"
        )
    return _mib(status["VmHWM"])


def children_peak_mib() -> float:
    """Return the peak memory of all child processes together, MiB.

    Raises:
        ConfigError: If the system does not report any.
    """
    parent = str(os.getpid())
    numbers = (path.name for path in _PROCESSES.glob("[0-9]*"))
    children = [int(n) for n in numbers if _status(n).get("PPid") == parent]
    return sum(map(peak_mib, children)) if children else peak_mib(-1)


def _status(process: str) -> dict[str, str]:
    """Return the fields that the system reports about a process, or none."""
    try:
        text = (_PROCESSES / process / "status").read_text()
    except OSError:  # another system, or the process has ended
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _mib(value: str) -> float:
    return int(value.split(maxsplit=1)[0]) / _KIB_PER_MIB
