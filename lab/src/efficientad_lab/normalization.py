"""Normalization of a map by mean and deviation, compared with quantiles in Table 4."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from efficientad.images.rgb import Mask
from efficientad.method.maps import HIGH_TARGET, LOW_TARGET, MapScale
from efficientad.method.placement import measured_map


def fit_mean_and_deviation(
    raw: Iterable[NDArray[np.float32]], *, inside: Mask | None = None
) -> MapScale:
    """Return the scale that sends the mean of a map's pixels to 0, a deviation to 1.

    The arguments are those of `efficientad.method.maps.fit_quantiles`.
    """
    counted = slice(None) if inside is None else inside
    placed = [measured_map(grid)[counted].ravel() for grid in raw]
    pixels = np.concatenate(placed).astype(np.float64)
    mean, deviation = float(pixels.mean()), float(pixels.std())
    return MapScale(mean + LOW_TARGET * deviation, mean + HIGH_TARGET * deviation)
