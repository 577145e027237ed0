"""How many cores there are for this process. No torch here."""

import os


def usable_cores() -> int:
    """Give the cores this process may use, of a machine that may have more."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
