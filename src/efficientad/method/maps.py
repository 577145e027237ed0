"""From raw maps to normalized ones and the image score (Algorithm 2).

A raw map is the channel mean of squared distances, one value per descriptor.
Normalization is one affine step per map type, fitted so that 0.9 and 0.995 quantiles of
normal pixels go to 0 and 0.1; it commutes with the linear placement on the image. The
maximum of a linearly interpolated map is one of its grid values, so the image score is
taken on the grid.

Where a calibration asks for it, each raw map is first divided by its own level, within
the range of levels that normal images have.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from efficientad.images.rgb import INPUT_SIZE
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

SMALLEST_DISTANCE = 1e-6
"""What a raw map counts as at least in its level, so that a zero does no harm."""


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


def map_levels(raw_map: AnomalyMap) -> Float[Tensor, " batch"]:
    """Give the level of each image's map: its harmonic mean.

    What is high, a defect even of half the image, hardly moves it.
    """
    distances = raw_map.float().clamp(min=SMALLEST_DISTANCE)
    return distances.reciprocal().mean((-2, -1)).reciprocal()


def divided_by_level(raw_map: AnomalyMap, least: float, greatest: float) -> AnomalyMap:
    """Divide each image's map by its level.

    Args:
        raw_map: Of any images.
        least: Lowest level to divide by, above 0.
        greatest: Highest one: an image that is strange all over stays strange.
    """
    levels = map_levels(raw_map).clamp(least, greatest)
    return raw_map / levels[:, None, None]


def normalize_map(raw_map: AnomalyMap, quantiles: MapQuantiles) -> AnomalyMap:
    """Send the low quantile to 0 and the high one to 0.1."""
    if quantiles.levels is not None:
        raw_map = divided_by_level(raw_map, *quantiles.levels)
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


def _placed_pixels(grids: Grids) -> NDArray[np.float32]:
    return np.concatenate(
        [place_map(grid, INPUT_SIZE, INPUT_SIZE).ravel() for grid in grids]
    )
