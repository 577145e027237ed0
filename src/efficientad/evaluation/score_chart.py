"""Image scores as a chart: the lines, bars, dots and texts of an SVG.

Above is a histogram, normal images upwards and defects downwards. Below, on the same
axis, is a dot for each image, in a row for each defect type. The threshold is a line
through both. It is also a border between two bars, so that no bar holds scores of both
sides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets import NORMAL

ScoresByType: TypeAlias = Mapping[str, Sequence[float]]
"""Image scores by defect type, with `good` for normal images."""

Line: TypeAlias = tuple[str, float, float, float, float]
"""CSS class, x1, y1, x2, y2."""
Bar: TypeAlias = tuple[str, float, float, float, float, int]
"""CSS class, x, y, width, height, number of images."""
Dot: TypeAlias = tuple[str, float, float]
"""CSS class, x, y."""
Text: TypeAlias = tuple[str, float, float, str, str]
"""CSS class, x, y, anchor, text."""

_WIDTH: Final = 860
_LEFT, _RIGHT, _TOP, _BOTTOM = 132, 20, 34, 46
_HALF_HEIGHT: Final = 96
_MIDDLE: Final = _TOP + _HALF_HEIGHT
_ROW_HEIGHT: Final = 24
_ROWS_TOP: Final = _TOP + 2 * _HALF_HEIGHT + 22
_N_BARS: Final = 36
_N_TICKS: Final = 8
_MAX_NAME: Final = 17

# Above this ratio of highest to lowest score, a linear axis would hide the lower ones.
_MIN_LOG_RATIO: Final = 15.0

_MARGIN_SHARE: Final = 0.03


@dataclass(eq=False, slots=True)
class Chart:
    """Everything to draw, from back to front; the page gives colors to the classes."""

    height: float
    low: float
    """Lower end of the axis: a score, or its logarithm to base 10."""
    high: float
    is_log: bool
    width: float = _WIDTH
    left: float = _LEFT
    right: float = _WIDTH - _RIGHT
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    front_lines: list[Line] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Axis:
    """From scores to places along the chart."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def around(cls, values: Sequence[float]) -> "_Axis":
        lowest, highest = min(values), max(values)
        is_log = lowest > 0 and highest / lowest > _MIN_LOG_RATIO
        if is_log:
            lowest, highest = math.log10(lowest), math.log10(highest)
        margin = _MARGIN_SHARE * (highest - lowest) or 0.5
        return cls(lowest - margin, highest + margin, is_log)

    def places(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the distance of each value from the left, pixels."""
        scaled = np.asarray(values, np.float64)
        scaled = np.log10(scaled) if self.is_log else scaled
        share = (scaled - self.low) / (self.high - self.low)
        places: NDArray[np.float64] = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        return places

    def ticks(self) -> list[float]:
        """Return round values, about ten at most."""
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


def score_chart(scores: ScoresByType, threshold: float) -> Chart:
    """Return the chart of image scores, finite and at least one in all.

    Types without any are left out. A threshold that is not finite is not drawn.
    """
    rows = {name: list(values) for name, values in scores.items() if values}
    everything = [score for values in rows.values() for score in values]
    thresholds = [threshold] if math.isfinite(threshold) else []
    axis = _Axis.around([*everything, *thresholds])
    bottom = _ROWS_TOP + _ROW_HEIGHT * len(rows)
    chart = Chart(bottom + _BOTTOM, axis.low, axis.high, axis.is_log)
    _add_axis(chart, axis, bottom)
    places = axis.places(thresholds)
    _add_histogram(chart, axis, rows, places[0] if thresholds else _LEFT)
    _add_dots(chart, axis, rows)
    for x in places:
        anchor, shift = ("end", -6) if x > (_LEFT + _WIDTH) / 2 else ("start", 6)
        chart.front_lines.append(("threshold", x, 8, x, bottom))
        text = f"threshold {threshold:.4g}"
        chart.texts.append(("threshold-label", x + shift, 19, anchor, text))
    return chart


def _add_axis(chart: Chart, axis: _Axis, y: float) -> None:
    chart.lines.append(("axis", _LEFT, y, _WIDTH - _RIGHT, y))
    ticks = axis.ticks()
    for value, x in zip(ticks, axis.places(ticks), strict=True):
        chart.lines += [("grid", x, _TOP, x, y), ("axis", x, y, x, y + 5)]
        chart.texts.append(("tick", x, y + 19, "middle", f"{value:.6g}"))
    name = "image score (logarithmic)" if axis.is_log else "image score"
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    chart.texts.append(("label", middle, y + 39, "middle", name))


def _add_histogram(
    chart: Chart, axis: _Axis, rows: ScoresByType, border: float
) -> None:
    """Add bars of one width, with a border between two of them at the given place."""
    width = (_WIDTH - _LEFT - _RIGHT) / _N_BARS
    first = _LEFT + (border - _LEFT) % width
    edges = np.array([first + width * k for k in range(-1, _N_BARS + 2)])
    normal = rows.get(NORMAL, [])
    defects = [s for name, values in rows.items() if name != NORMAL for s in values]
    counts = [_counts(axis.places(scores), edges) for scores in (normal, defects)]
    n_most = max(1, *(int(count.max()) for count in counts))
    unit = (_HALF_HEIGHT - 4) / n_most
    top_tick = int(_round_values(0, n_most, 3)[-1])
    for tick in sorted({-top_tick, 0, top_tick}):
        y = _MIDDLE - tick * unit
        chart.lines.append(("axis", _LEFT - 4, y, _LEFT, y))
        chart.texts.append(("tick", _LEFT - 8, y + 4, "end", str(abs(tick))))
    for name, count in zip(("normal", "defect"), counts, strict=True):
        for left, n in zip(edges[:-1], count.tolist(), strict=True):
            if n:
                y = _MIDDLE - n * unit if name == "normal" else _MIDDLE
                bar = (name, left + 0.75, y, width - 1.5, n * unit, n)
                chart.bars.append(bar)
    chart.front_lines.append(("axis", _LEFT, _MIDDLE, _WIDTH - _RIGHT, _MIDDLE))
    chart.texts += [
        ("tick", 0, 19, "start", "number of images"),
        ("label", 0, _MIDDLE - _HALF_HEIGHT / 2, "start", "normal images"),
        ("label", 0, _MIDDLE + _HALF_HEIGHT / 2 + 8, "start", "defects"),
    ]


def _counts(
    places: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Count the places above a bar's left edge and not above its right one.

    A score that equals the threshold is not anomalous: it is counted left of it.
    """
    bars = np.searchsorted(edges, places - 1e-9, side="left") - 1
    bars = np.clip(bars, 0, len(edges) - 2)
    return np.bincount(bars, minlength=len(edges) - 1).astype(np.int64)


def _add_dots(chart: Chart, axis: _Axis, rows: ScoresByType) -> None:
    for k, (name, values) in enumerate(rows.items()):
        y = _ROWS_TOP + (k + 0.5) * _ROW_HEIGHT
        kind = "normal" if name == NORMAL else "defect"
        shown = "normal" if name == NORMAL else name
        if len(shown) > _MAX_NAME:
            shown = shown[: _MAX_NAME - 1] + "…"
        chart.texts.append(("row", 0, y + 4, "start", shown))
        chart.dots += [(kind, x, y) for x in axis.places(values)]


def _round_values(low: float, high: float, n_most: int) -> list[float]:
    """Return at most about `n_most` multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / n_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(d * power for d in (1, 2, 5, 10) if d * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]
