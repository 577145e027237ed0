"""Image scores as a chart: places and numbers, which `score_chart.svg.j2` draws.

Above is a histogram, normal images upwards and defects downwards. Below, on the same
axis, is a dot for each image, in a row for each defect type. The threshold is a line
through both. It is also a border between two bars, so that no bar holds scores of both
sides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets import NORMAL

ScoresByType: TypeAlias = Mapping[str, Sequence[float]]
"""Image scores by defect type, with `good` for normal images."""

_WIDTH: Final = 860
_LEFT, _RIGHT = 132, 20
_N_BARS: Final = 36
_BAR_WIDTH: Final = (_WIDTH - _LEFT - _RIGHT) / _N_BARS
_N_TICKS: Final = 8
_MAX_NAME: Final = 17

# Above this ratio of highest to lowest score, a linear axis would hide the lower ones.
_MIN_LOG_RATIO: Final = 15.0

_MARGIN_SHARE: Final = 0.03


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    """Lower end: a score, or its logarithm to base 10."""
    high: float
    is_log: bool

    @classmethod
    def around(cls, scores: Sequence[float]) -> "_Axis":
        lowest, highest = min(scores), max(scores)
        is_log = lowest > 0 and highest / lowest > _MIN_LOG_RATIO
        if is_log:
            lowest, highest = math.log10(lowest), math.log10(highest)
        margin = _MARGIN_SHARE * (highest - lowest) or 0.5
        return cls(lowest - margin, highest + margin, is_log)

    def places(self, scores: Sequence[float]) -> NDArray[np.float64]:
        """Return the distance of each score from the left, pixels."""
        scaled = np.asarray(scores, np.float64)
        scaled = np.log10(scaled) if self.is_log else scaled
        share = (scaled - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def ticks(self) -> list[float]:
        """Return round scores, about ten at most."""
        if not self.is_log:
            return _round_values(self.low, self.high, _N_TICKS)
        low, high = 10**self.low, 10**self.high
        decades = range(math.floor(self.low), math.floor(self.high) + 1)
        choices = [
            [digit * 10.0**k for k in decades for digit in digits]
            for digits in ((1, 2, 5), (1, 3), (1,))
        ]
        inside = [[t for t in ticks if low <= t <= high] for ticks in choices]
        fitting = (ticks for ticks in inside if len(ticks) <= _N_TICKS + 2)
        return next(fitting, inside[-1])


@dataclass(frozen=True, eq=False, slots=True)
class Chart:
    """Places along the chart in pixels from the left, and numbers of images."""

    axis: _Axis
    ticks: list[tuple[float, float]]
    """Place and score."""
    bars: list[tuple[str, float, int]]
    """`normal` or `defect`, left edge, number of images."""
    n_most: int
    """Number of images of the highest bar, at least 1."""
    count_tick: int
    """A round number of images."""
    rows: list[tuple[str, str, list[float]]]
    """`normal` or `defect`, name, and the place of each image."""
    threshold: tuple[float, float]
    """Place and score."""
    width: float = _WIDTH
    left: float = _LEFT
    right: float = _WIDTH - _RIGHT
    bar_width: float = _BAR_WIDTH


def score_chart(scores: ScoresByType, threshold: float) -> Chart:
    """Return the chart of image scores, at least one in all.

    Scores and threshold are finite. Types without any score are left out.
    """
    named = {name: list(values) for name, values in scores.items() if values}
    everything = [score for values in named.values() for score in values]
    axis = _Axis.around([*everything, threshold])
    border = axis.places([threshold])[0]
    rows = [
        (*_kind_and_name(name), axis.places(values).tolist())
        for name, values in named.items()
    ]
    bars = [
        (kind, left, n)
        for kind in ("normal", "defect")
        for left, n in _bars([x for k, _, xs in rows if k == kind for x in xs], border)
    ]
    n_most = max(1, *(n for _, _, n in bars))
    ticks = axis.ticks()
    return Chart(
        axis=axis,
        ticks=list(zip(axis.places(ticks).tolist(), ticks, strict=True)),
        bars=bars,
        n_most=n_most,
        count_tick=int(_round_values(0, n_most, 3)[-1]),
        rows=rows,
        threshold=(border, threshold),
    )


def _kind_and_name(defect_type: str) -> tuple[str, str]:
    if defect_type == NORMAL:
        return "normal", "normal"
    is_long = len(defect_type) > _MAX_NAME
    return "defect", f"{defect_type[: _MAX_NAME - 1]}…" if is_long else defect_type


def _bars(places: Sequence[float], border: float) -> list[tuple[float, int]]:
    """Return left edge and count of each bar, the border being between two of them.

    A bar counts the places above its left edge and not above its right one: a score
    that equals the threshold is not anomalous.
    """
    first = _LEFT + (border - _LEFT) % _BAR_WIDTH
    edges = np.array([first + _BAR_WIDTH * k for k in range(-1, _N_BARS + 2)])
    bars = np.searchsorted(edges, np.array(places) - 1e-9, side="left") - 1
    counts = np.bincount(np.clip(bars, 0, len(edges) - 2), minlength=len(edges) - 1)
    pairs = zip(edges[:-1].tolist(), counts.tolist(), strict=True)
    return [(left, n) for left, n in pairs if n]


def _round_values(low: float, high: float, n_most: int) -> list[float]:
    """Return at most about `n_most` multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / n_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(d * power for d in (1, 2, 5, 10) if d * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]
