"""Whether somebody watches. Needs no torch."""

import sys


def has_terminal() -> bool:
    """Return whether the standard error stream is a terminal."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # a service has no such stream, or closed it
        return False
