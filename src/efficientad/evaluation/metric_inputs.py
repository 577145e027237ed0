"""Checks of the scores and labels that metrics accept.

Scores rise with abnormality. Labels are boolean, or only 0 and 1: those of -1 and 1
could mean something else.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import DatasetError, UndefinedMetricError

Floats: TypeAlias = NDArray[np.floating[Any]]
"""Finite scores, float32 or float64."""


def as_booleans(array: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Return an array of booleans, or of 0 and 1, as booleans.

    Raises:
        DatasetError: If the array holds another value.
    """
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
