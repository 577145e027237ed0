"""False-alarm budgets. The command line shows them, so nothing heavy is imported."""

from typing import Final

DEFAULT_BUDGET: Final = 0.05
"""Share of normal images that may be flagged."""
BUDGETS: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Shares that `Calibration.table` shows."""
