"""Scores as a picture: an SVG that stands in an HTML page and takes its colors.

Above, a histogram: normal images upwards, defects downwards. Below, on the same axis,
a dot for each image, a row for each defect type. The threshold is a line through both,
and a border between two bars: no bar holds scores of either side.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets import NORMAL

ScoresByType: TypeAlias = Mapping[str, Sequence[float]]
"""Image scores for each defect type, `good` among them."""

_WIDTH: Final = 860
_LEFT, _RIGHT, _TOP, _BOTTOM = 132, 20, 34, 46
_HALF_HEIGHT: Final = 96
_ROW_HEIGHT: Final = 24
_ROWS_GAP: Final = 22
_N_BARS: Final = 36
_N_TICKS: Final = 8
_MAX_NAME: Final = 17

# From this ratio of highest to lowest score on, equal steps would hide the lower ones.
_MIN_LOG_RATIO: Final = 15.0

_MARGIN_SHARE: Final = 0.03


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
        """Give the distance of each value from the left, pixels."""
        scaled = np.asarray(values, np.float64)
        scaled = np.log10(scaled) if self.is_log else scaled
        share = (scaled - self.low) / (self.high - self.low)
        places: NDArray[np.float64] = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        return places

    def place(self, value: float) -> float:
        return float(self.places([value])[0])

    def ticks(self) -> list[float]:
        """Give round values, not too many."""
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


def score_chart(scores: ScoresByType, threshold: float) -> str:
    """Draw the image scores.

    Args:
        scores: Finite, at least one in all; types without any are left out.
        threshold: Scores above it are anomalous. Not drawn unless it is finite.

    Returns:
        An `svg` element. The page gives colors to the classes it uses.
    """
    rows = {name: list(values) for name, values in scores.items() if values}
    everything = [score for values in rows.values() for score in values]
    has_threshold = math.isfinite(threshold)
    axis = _Axis.around([*everything, threshold] if has_threshold else everything)
    axis_y = _TOP + 2 * _HALF_HEIGHT + _ROWS_GAP + _ROW_HEIGHT * len(rows)
    parts = [
        *_x_axis(axis, axis_y),
        *_histogram(axis, rows, threshold if has_threshold else None),
        *_dots(axis, rows),
    ]
    if has_threshold:
        parts += _threshold_line(axis, threshold, axis_y)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {axis_y + _BOTTOM}" role="img" '
        'aria-label="Histogram of image scores, normal images against defects">'
        + "".join(parts)
        + "</svg>"
    )


def _x_axis(axis: _Axis, y: float) -> Iterator[str]:
    yield _line(_LEFT, y, _WIDTH - _RIGHT, y, "axis")
    ticks = axis.ticks()
    for value, x in zip(ticks, axis.places(ticks), strict=True):
        yield _line(x, _TOP, x, y, "grid")
        yield _line(x, y, x, y + 5, "axis")
        yield _text(x, y + 19, f"{value:.6g}", "tick", "middle")
    name = "image score (logarithmic)" if axis.is_log else "image score"
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, y + 39, name, "label", "middle")


def _histogram(
    axis: _Axis, rows: Mapping[str, Sequence[float]], threshold: float | None
) -> Iterator[str]:
    edges = _bar_edges(None if threshold is None else axis.place(threshold))
    normal = rows.get(NORMAL, [])
    defects = [s for name, values in rows.items() if name != NORMAL for s in values]
    counts = [_counts(axis.places(scores), edges) for scores in (normal, defects)]
    n_most = max(1, *(int(count.max()) for count in counts))
    middle = _TOP + _HALF_HEIGHT
    top_tick = int(_round_values(0, n_most, 3)[-1])
    for tick in sorted({-top_tick, 0, top_tick}):
        y = middle - tick / n_most * (_HALF_HEIGHT - 4)
        yield _line(_LEFT - 4, y, _LEFT, y, "axis")
        yield _text(_LEFT - 8, y + 4, str(abs(tick)), "tick", "end")
    for name, count, sign in (("normal", counts[0], 1), ("defect", counts[1], -1)):
        for left, right, n in zip(edges[:-1], edges[1:], count, strict=True):
            height = n / n_most * (_HALF_HEIGHT - 4)
            if n:
                y = middle - height if sign > 0 else middle
                yield (
                    f'<rect class="{name}" x="{left + 0.75:.2f}" y="{y:.2f}" '
                    f'width="{right - left - 1.5:.2f}" height="{height:.2f}">'
                    f"<title>{n}</title></rect>"
                )
    yield _line(_LEFT, middle, _WIDTH - _RIGHT, middle, "axis")
    yield _text(0, 19, "number of images", "tick", "start")
    yield _text(0, middle - _HALF_HEIGHT / 2, "normal images", "label", "start")
    yield _text(0, middle + _HALF_HEIGHT / 2 + 8, "defects", "label", "start")


def _bar_edges(threshold_place: float | None) -> NDArray[np.float64]:
    """Cut the axis into bars of one width, one border at the threshold."""
    width = (_WIDTH - _LEFT - _RIGHT) / _N_BARS
    first = (
        _LEFT if threshold_place is None else _LEFT + (threshold_place - _LEFT) % width
    )
    return np.array([first + width * k for k in range(-1, _N_BARS + 2)])


def _counts(
    places: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Count what is above a bar's left edge and not above its right one.

    So a score that equals the threshold, which is not anomalous, stays on its left.
    """
    bars = np.searchsorted(edges, places - 1e-9, side="left") - 1
    counts: NDArray[np.int64] = np.bincount(
        np.clip(bars, 0, len(edges) - 2), minlength=len(edges) - 1
    ).astype(np.int64)
    return counts


def _dots(axis: _Axis, rows: Mapping[str, Sequence[float]]) -> Iterator[str]:
    first = _TOP + 2 * _HALF_HEIGHT + _ROWS_GAP
    for k, (name, values) in enumerate(rows.items()):
        y = first + (k + 0.5) * _ROW_HEIGHT
        kind = "normal" if name == NORMAL else "defect"
        shown = "normal" if name == NORMAL else name
        if len(shown) > _MAX_NAME:
            shown = shown[: _MAX_NAME - 1] + "…"
        yield _text(0, y + 4, shown, "row", "start")
        for x in axis.places(values):
            yield f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _threshold_line(axis: _Axis, threshold: float, bottom: float) -> Iterator[str]:
    x = axis.place(threshold)
    is_right = x > (_LEFT + _WIDTH) / 2
    anchor, shift = ("end", -6) if is_right else ("start", 6)
    yield _line(x, 8, x, bottom, "threshold")
    text = f"threshold {threshold:.4g}"
    yield _text(x + shift, 19, text, "threshold-label", anchor)


def _round_values(low: float, high: float, n_most: int) -> list[float]:
    """Give at most about `n_most` multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / n_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(d * power for d in (1, 2, 5, 10) if d * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{name}" {ends}/>'


def _text(x: float, y: float, text: str, name: str, anchor: str) -> str:
    return (
        f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
