"""The number of processor cores for this process. Needs no torch."""

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Return how many cores this process may use: its own, or its container's share."""
    n_cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        n_cores = len(os.sched_getaffinity(0))
    try:
        quota, period = map(int, _QUOTA.read_text().split())
    except (OSError, ValueError):  # no container, or `max`: no limit
        return n_cores
    return max(1, min(n_cores, quota // period))


def default_threads() -> int:
    """Return the threads of native layers: OMP_NUM_THREADS, or else all usable cores.

    PyTorch reads the same variable.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else usable_cores()
