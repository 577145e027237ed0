"""Exact metrics of image scores: how well they rank images. No torch.

Every distinct score is a threshold. Equal scores enter together, and a curve is linear
between two thresholds, so a tie counts half. Scores rise with abnormality. Labels are
boolean, or only 0 and 1: those of -1 and 1 could mean something else. The pixel metrics
are in `region_overlap`.

A metric without a defined value for the data raises `UndefinedMetricError` with the
reason; it is never 0 or 1 instead.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import ConfigError, DatasetError, UndefinedMetricError

Floats: TypeAlias = NDArray[np.floating[Any]]
"""Finite scores, float32 or float64."""
Counts: TypeAlias = NDArray[np.int64]
Shares: TypeAlias = NDArray[np.float64]


def au_roc(scores: NDArray[Any], is_defect: NDArray[Any]) -> float:
    """Return the share of pairs of a defect and a normal score in the right order.

    This is the area under the curve of recall over the false positive rate. A tie
    counts half: 0.5 is guessing, 1 is perfect.

    Args:
        scores: One for each image (or pixel), any shape, finite.
        is_defect: Boolean, same shape.

    Raises:
        DatasetError: If the two do not fit together.
        UndefinedMetricError: If there is no defect, nothing normal, or a score is not
            finite.
    """
    scores, is_defect = _checked(scores, is_defect, "AU-ROC")
    normal = np.sort(scores[~is_defect])
    defects = scores[is_defect]
    not_above = np.searchsorted(normal, defects, side="right")
    tied = not_above - np.searchsorted(normal, defects, side="left")
    n_normal = float(normal.size)
    return float(np.mean(step_area(normal.size - not_above, tied, n_normal)))


def average_precision(scores: NDArray[Any], is_defect: NDArray[Any]) -> float:
    """Return the mean precision over all defects, each at the threshold that finds it.

    This is the sum over thresholds of the gain in recall times the precision, without
    interpolation. Arguments and errors are those of `au_roc`.
    """
    n_defects, n_normal = _reported(scores, is_defect, "average precision")
    precision = n_defects / (n_defects + n_normal)
    found = np.diff(n_defects, prepend=0)
    return float(np.sum(found * precision) / n_defects[-1])


def f1_max(scores: NDArray[Any], is_defect: NDArray[Any]) -> float:
    """Return the highest harmonic mean of precision and recall over all thresholds.

    Arguments and errors are those of `au_roc`.
    """
    n_defects, n_normal = _reported(scores, is_defect, "F1-max")
    return float(np.max(2 * n_defects / (n_defects + n_normal + n_defects[-1])))


def recall_at_fpr(
    scores: NDArray[Any], is_defect: NDArray[Any], fpr_limit: float
) -> float:
    """Return the largest share of defects found with few enough false alarms.

    Thresholds are scores that occur, and one above them all. Nothing is interpolated,
    so a threshold with this recall exists. `fpr_limit` is the largest share of normal
    images that may be reported. Other arguments and errors are those of `au_roc`.

    Raises:
        ConfigError: If `fpr_limit` is not in (0, 1].
    """
    if not 0 < fpr_limit <= 1:
        raise ConfigError(f"fpr_limit must be in (0, 1], got {fpr_limit}")
    metric = "recall at a false positive rate"
    n_defects, n_normal = _reported(scores, is_defect, metric)
    is_allowed = n_normal / n_normal[-1] <= fpr_limit
    return float(np.max(n_defects[is_allowed], initial=0) / n_defects[-1])


def step_area(above: Counts, tied: Counts, limit: float) -> Shares:
    """Return the mean height of steps from 0 to 1, from 0 up to a limit above 0.

    A step begins behind the normal scores above a defect's score, and its slope is as
    wide as the number of normal scores equal to it.
    """
    right_of_begin = np.maximum(limit - above, 0)
    on_slope = np.minimum(right_of_begin, tied)
    missing = on_slope * (1 - on_slope / (2 * np.maximum(tied, 1)))
    height: Shares = (right_of_begin - missing) / limit
    return height


def as_booleans(array: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Return booleans, or 0 and 1, as booleans; raise `DatasetError` for others."""
    array = np.asarray(array)
    if array.dtype == bool:
        return array
    booleans = array.astype(bool)
    if array.dtype.kind not in "uif" or not np.array_equal(array, booleans):
        raise DatasetError(
            f"{name} must be boolean, got {array.dtype} with other values than 0 and "
            "1; compare first, for example mask > 0"
        )
    return booleans


def as_scores(array: NDArray[Any], name: str) -> Floats:
    """Return finite numbers as float32, or as float64 where float32 is too narrow.

    Raises:
        DatasetError: If the array does not hold real numbers.
        UndefinedMetricError: If a number is infinite or NaN.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "buif" or array.dtype.itemsize > np.float64().itemsize:
        raise DatasetError(
            f"{name} must be real numbers, at most float64, got {array.dtype}"
        )
    n_bad = array.size - np.count_nonzero(np.isfinite(array))
    if n_bad:
        raise UndefinedMetricError(
            f"{name} must be finite, got {n_bad} infinite or undefined of "
            f"{array.size}; a detector with such scores cannot be evaluated"
        )
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)


def _reported(
    scores: NDArray[Any], is_defect: NDArray[Any], metric: str
) -> tuple[Counts, Counts]:
    """Return the defects and normal images at each threshold, from the highest down."""
    scores, is_defect = _checked(scores, is_defect, metric)
    descending = np.argsort(scores)[::-1]
    scores = scores[descending]
    last_of_equals = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    n_defects = np.cumsum(is_defect[descending], dtype=np.int64)[last_of_equals]
    return n_defects, last_of_equals + 1 - n_defects


def _checked(
    scores: NDArray[Any], is_defect: NDArray[Any], metric: str
) -> tuple[Floats, NDArray[np.bool_]]:
    scores = as_scores(scores, "scores")
    if np.shape(is_defect) != scores.shape:
        needed, given = (
            " x ".join(map(str, np.shape(array))) or "a single number"
            for array in (scores, is_defect)
        )
        raise DatasetError(
            f"is_defect must have the shape of the scores, {needed}, got {given}"
        )
    is_defect = as_booleans(is_defect, "is_defect").ravel()
    n_defects = np.count_nonzero(is_defect)
    if n_defects in (0, is_defect.size):
        raise UndefinedMetricError(
            f"{metric} needs at least one defective and one normal score, got "
            f"{n_defects} defective and {is_defect.size - n_defects} normal; "
            "add what is missing, or leave the metric out"
        )
    return scores.ravel(), is_defect
