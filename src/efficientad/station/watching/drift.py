"""Drift of a stream of numbers, with a stated rate of false alarms.

Each number is ranked among those before it. While they are exchangeable, the p-values
of these ranks are independent and uniform, whatever the numbers' distribution; the
order of arrival is all that matters. A fixed calibration set would not do: p-values
that share one are dependent, and a bet on them wins without any drift.

A bet on small or large p-values (simple jumper) has the mean factor 1 without drift.
Evidence is the Shiryaev-Roberts statistic of these factors: without drift its mean
after T parts is T, so by Doob's inequality it reaches a level L within T parts with a
probability of at most T / L. No torch here.
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Final

_DIRECTIONS: Final = (-1.0, 0.0, 1.0)
_SHARED: Final = 0.01
_HIGHEST: Final = 1e300
_LARGEST_RATE: Final = 0.45


@dataclass(slots=True)
class Evidence:
    """Evidence that something changed at some time, and since when."""

    value: float = 0.0
    """Shiryaev-Roberts statistic, at least 0."""

    n_parts: int = 0
    """Number of factors so far."""

    since: str | None = None
    """First part after the last minimum of the product of all factors, the likeliest
    first one of the drift. None: the minimum is now."""

    _log_product: float = 0.0
    _lowest: float = 0.0

    def add(self, factor: float, part: str) -> None:
        """Add the factor that a bet won or lost by a part, above 0."""
        self.n_parts += 1
        self.value = min((1 + self.value) * factor, _HIGHEST)
        self._log_product += math.log(factor)
        if self.since is None:
            self.since = part
        if self._log_product <= self._lowest:
            self._lowest, self.since = self._log_product, None


@dataclass(slots=True)
class RankDrift:
    """Test whether numbers are higher or lower than the ones before."""

    seen: list[float]
    """Numbers so far, ascending."""

    evidence: Evidence = field(default_factory=Evidence)
    _weights: list[float] = field(default_factory=lambda: [1 / 3] * 3)

    def add(self, value: float, part: str, chance: float) -> None:
        """Compare the finite number of a part with all earlier ones, then keep it.

        The chance, in [0, 1) and uniform over parts, parts equal ranks.
        """
        self.evidence.add(self._won(self._p_value(value, chance)), part)

    def learn(self, value: float) -> None:
        """Keep a number without a bet."""
        self.seen.insert(bisect_left(self.seen, value), value)

    def _p_value(self, value: float, chance: float) -> float:
        low, high = bisect_left(self.seen, value), bisect_right(self.seen, value)
        n = len(self.seen)
        self.seen.insert(low, value)
        return (n - high + chance * (1 + high - low)) / (n + 1)

    def _won(self, p_value: float) -> float:
        """Return the factor of the bet, and move the weights to what won."""
        factors = [1 + direction * (p_value - 0.5) for direction in _DIRECTIONS]
        won = [w * factor for w, factor in zip(self._weights, factors, strict=True)]
        total = sum(won)
        shared = _SHARED / len(won)
        self._weights = [(1 - _SHARED) * w / total + shared for w in won]
        return total


@dataclass(slots=True)
class RateDrift:
    """Test whether parts are flagged more often than expected: a bet on twice that."""

    expected: float
    """Expected share of flagged parts, above 0; at most 0.45 is used."""

    evidence: Evidence = field(default_factory=Evidence)

    def add(self, *, is_flagged: bool, part: str) -> None:
        """Add the factor 1 + λ(x / q - 1) with λ = q / (1 - q)."""
        q = min(self.expected, _LARGEST_RATE)
        self.evidence.add(2.0 if is_flagged else (1 - 2 * q) / (1 - q), part)
