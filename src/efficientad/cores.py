"""The number of processor cores for this process. Needs no torch."""

import os


def usable_cores() -> int:
    """Return how many cores this process may use, at most those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
