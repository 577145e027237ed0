"""The command line."""

from typing import Final

OK: Final = 0
SOME_FAILED: Final = 1
BAD_INPUT: Final = 2
ANOMALOUS: Final = 3
UNSURE: Final = 4
INTERRUPTED: Final = 130
