"""From raw maps to normalized ones and the image score (Algorithm 2).

A raw map is the channel mean of squared distances, one value per descriptor.
Normalization is one affine step per map type, fitted so that 0.9 and 0.995 quantiles of
normal pixels go to 0 and 0.1; it commutes with the linear placement on the image. The
maximum of a linearly interpolated map is one of its grid values, so the image score is
taken on the grid.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from efficientad.images import INPUT_SIZE
from efficientad.method.decision import (
    HIGH_QUANTILE,
    HIGH_TARGET,
    LOW_QUANTILE,
    LOW_TARGET,
    Calibration,
    MapQuantiles,
)
from efficientad.method.placement import place_map

AnomalyMap = Float[Tensor, "batch rows columns"]
ImageScores = Float[Tensor, " batch"]
Grids = Sequence[NDArray[np.float32]]


class RawMaps(NamedTuple):
    """The maps before normalization, on the descriptor grid."""

    local_map: AnomalyMap
    global_map: AnomalyMap


class AnomalyMaps(NamedTuple):
    """The maps of a batch of images, on the descriptor grid.

    `local_map` reacts to a defect within one patch, `global_map` to normal patches in a
    wrong arrangement. `combined_map` is their mean.
    """

    local_map: AnomalyMap
    global_map: AnomalyMap
    combined_map: AnomalyMap


def normalize_map(raw_map: AnomalyMap, quantiles: MapQuantiles) -> AnomalyMap:
    """Send the low quantile to 0 and the high one to 0.1."""
    scale = (HIGH_TARGET - LOW_TARGET) / (quantiles.high - quantiles.low)
    return (raw_map - quantiles.low) * scale + LOW_TARGET


def normalize_maps(raw: RawMaps, calibration: Calibration) -> AnomalyMaps:
    """Put both maps on one scale and average them."""
    local_map = normalize_map(raw.local_map, calibration.local_quantiles)
    global_map = normalize_map(raw.global_map, calibration.global_quantiles)
    return AnomalyMaps(local_map, global_map, (local_map + global_map) / 2)


def image_scores(combined_map: AnomalyMap) -> ImageScores:
    """Give the maximum of each combined map."""
    return combined_map.amax((-2, -1))


def map_quantiles(
    grids: Grids, *, low: float = LOW_QUANTILE, high: float = HIGH_QUANTILE
) -> MapQuantiles:
    """Measure the quantiles of placed maps over all their 256 x 256 pixels.

    Args:
        grids: Raw maps of normal images on the descriptor grid, at least one.
        low: The paper's a, in [0, 1]: the quantile that normalization sends to 0.
        high: The paper's b, in [0, 1], above `low`: sent to 0.1.
    """
    values = np.quantile(_placed_pixels(grids), (low, high))
    return MapQuantiles(float(values[0]), float(values[1]))


def map_mean_and_deviation(grids: Grids) -> MapQuantiles:
    """Measure what sends the mean of a map's pixels to 0 and their deviation to 1.

    The paper's ablations compare quantiles with it. One affine step is like another: as
    quantiles, these are the values that go to 0 and to 0.1.

    Args:
        grids: Raw maps of normal images on the descriptor grid, at least one.
    """
    pixels = _placed_pixels(grids).astype(np.float64)
    mean, deviation = float(pixels.mean()), float(pixels.std())
    return MapQuantiles(mean + LOW_TARGET * deviation, mean + HIGH_TARGET * deviation)


def map_unsteadiness(grids: Grids) -> float:
    """Tell how much the level of a map changes from one normal image to the next.

    Args:
        grids: Raw maps of normal images on the descriptor grid, at least one.

    Returns:
        Standard deviation of the images' means, relative to the mean of all.
    """
    levels = np.array([grid.mean(dtype=np.float64) for grid in grids])
    return float(levels.std() / levels.mean())


def weighted(quantiles: MapQuantiles, weight: float) -> MapQuantiles:
    """Let a map reach only a share of what it would reach by its quantiles.

    Args:
        quantiles: Of the map. What goes to 0 stays.
        weight: In (0, 1].
    """
    reach = quantiles.high - quantiles.low
    return MapQuantiles(quantiles.low, quantiles.low + reach / weight)


def _placed_pixels(grids: Grids) -> NDArray[np.float32]:
    return np.concatenate(
        [place_map(grid, INPUT_SIZE, INPUT_SIZE).ravel() for grid in grids]
    )
