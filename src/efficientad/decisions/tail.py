"""The tail of a few scores: a quantile beyond the highest of them.

Scores above their median are taken for a generalized Pareto distribution, fitted by
probability-weighted moments (Hosking and Wallis 1987). A single odd score moves it less
than it moves the maximum. No torch here.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LEAST_SHAPE, _GREATEST_SHAPE = -1.0, 0.3
_N_SHAPED: Final = 8
"""With fewer exceedances the tail is taken for exponential."""


def tail_quantile(scores: Sequence[float], share: float) -> float:
    """Return the value that a share of all scores of this kind exceeds.

    Args:
        scores: At least one finite score.
        share: Share in (0, 1), for example below 1 / n.

    Returns:
        At least the median. Of one score, or of equal ones, that score.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    start = float(np.median(ordered))
    excess = ordered[ordered > start] - start
    if len(excess) == 0:
        return start
    shape, scale = _fitted(excess)
    ratio = len(excess) / len(ordered) / share
    if abs(shape) < 1e-6:  # noqa: PLR2004 - the limit of the other case
        return float(start + scale * np.log(max(ratio, 1)))
    return float(start + scale * (max(ratio, 1) ** shape - 1) / shape)


def _fitted(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Return shape and scale of positive values in ascending order."""
    n, mean = len(excess), float(excess.mean())
    if n < _N_SHAPED:
        return 0.0, mean
    weights = 1 - (np.arange(1, n + 1) - 0.35) / n
    weighted = float((excess * weights).mean())
    shape = 2 - mean / (mean - 2 * weighted)
    shape = float(np.clip(shape, _LEAST_SHAPE, _GREATEST_SHAPE))
    return shape, mean * (1 - shape)
