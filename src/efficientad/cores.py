"""The number of processor cores for this process. No torch here."""

import os


def usable_cores() -> int:
    """Return how many cores this process may use; the machine may have more."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
