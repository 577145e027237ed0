"""False-alarm budgets. The command line shows them, so nothing heavy is imported."""

from typing import Final

from efficientad.errors import ConfigError

DEFAULT_BUDGET: Final = 0.05
"""Share of normal images that may be flagged."""
BUDGETS: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Shares that `Calibration.table` shows."""


def require_order(false_alarm_budget: float, unsure_budget: float | None) -> None:
    """Raise `ConfigError` if the unsure budget is not above that of false alarms."""
    if unsure_budget is not None and unsure_budget <= false_alarm_budget:
        raise ConfigError(
            f"the unsure budget holds the {percent(false_alarm_budget)} of false "
            f"alarms as well, got {percent(unsure_budget)}; give a higher one"
        )


def percent(share: float) -> str:
    """Return a share as a person reads it, such as `0.5 %`."""
    return f"{100 * share:.2g} %"
