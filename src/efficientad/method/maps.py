"""From raw maps to normalized maps and the image score (supplement, Algorithm 2).

A raw map is the channel mean of squared distances, one value per descriptor.
Normalization is one affine step for each map, fitted so that the 0.9 and 0.995
quantiles of normal pixels go to 0 and 0.1. It commutes with the linear placement on the
image. The maximum of a linearly interpolated map is one of its grid values, so the
image score is taken on the grid.

Where a scale has levels, each raw map is first divided by its own level, within the
range of levels of normal images, and where it has places, by the level of each place.

Maps are known by their names: a method may have one map, or three. No torch here: the
same code follows every engine.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import ConfigError
from efficientad.images.rgb import Mask
from efficientad.method.placement import measured_map, refine_grid
from efficientad.method.places import levels_of_places
from efficientad.settings import check_fields

Grids = NDArray[np.float32]
"""Values of a map on the descriptor grid: (n, rows, columns)."""

# The paper's, "Anomaly map normalization": quantiles and their normalized values.
LOW_QUANTILE, HIGH_QUANTILE = 0.9, 0.995
LOW_TARGET, HIGH_TARGET = 0.0, 0.1

SMALLEST_DISTANCE = 1e-6
"""Lower limit of raw values in a level, so that a zero does no harm."""


@dataclass(frozen=True, slots=True)
class MapScale:
    """The affine normalization of one map, by two quantiles of normal pixels."""

    low: float
    """Value that normalization sends to 0."""
    high: float
    """Value that normalization sends to 0.1."""
    least_level: float | None = None
    """With `greatest_level`: each map is divided by its own level within these limits,
    the range of normal images, and the quantiles are those of such maps. None: raw maps
    are not divided, as in the paper."""
    greatest_level: float | None = None
    """See `least_level`."""
    places: str | None = None
    """Levels of the places of normal images (`places.place_levels`), which maps are
    divided by after that. None: they are not divided, as in the paper."""

    def __post_init__(self) -> None:
        """Reject quantiles that give no scale, and places that are none."""
        check_fields(self)
        if self.places is not None:
            try:
                levels_of_places(self.places, 1, 1)
            except ValueError as error:
                raise ConfigError(f"levels of places: {error}") from error
        if not self.low < self.high:
            raise ConfigError(
                f"map quantiles must differ, got {self.low} and {self.high}: the "
                "calibration images give constant maps; give other normal images"
            )
        is_half = (self.least_level is None) != (self.greatest_level is None)
        levels = self.levels
        if is_half or (levels and not 0 < levels[0] <= levels[1]):
            raise ConfigError(
                "the levels of a map need two limits, positive and in order, got "
                f"{self.least_level} and {self.greatest_level}"
            )

    @property
    def levels(self) -> tuple[float, float] | None:
        """Limits of the level that a map is divided by, or None."""
        if self.least_level is None or self.greatest_level is None:
            return None
        return self.least_level, self.greatest_level


def map_levels(raw: Grids, cells: Mask | None = None) -> NDArray[np.float32]:
    """Return the level of each raw map, (n,): its harmonic mean over some cells.

    High values hardly move it, even where a defect covers half of the image.
    """
    distances = np.maximum(raw, np.float32(SMALLEST_DISTANCE))
    if cells is not None:
        distances = distances[:, np.newaxis, cells]
    levels: NDArray[np.float32] = 1 / np.mean(1 / distances, axis=(-2, -1))
    return levels


def divide_by_level(
    raw: Grids, least: float, greatest: float, cells: Mask | None = None
) -> Grids:
    """Return each raw map divided by its level.

    Args:
        raw: Raw maps of any images.
        least: Lowest divisor, above 0.
        greatest: Highest divisor: an image that is strange all over stays strange.
        cells: Cells whose level it is, (rows, columns). None: all.
    """
    levels = map_levels(raw, cells).clip(np.float32(least), np.float32(greatest))
    divided: Grids = raw / levels[:, np.newaxis, np.newaxis]
    return divided


def normalize_map(raw: Grids, scale: MapScale, cells: Mask | None = None) -> Grids:
    """Return raw maps on the common scale: the low quantile at 0, the high at 0.1."""
    if scale.levels is not None:
        raw = divide_by_level(raw, *scale.levels, cells)
    if scale.places is not None:
        raw = raw / levels_of_places(scale.places, *raw.shape[1:])
    slope = (HIGH_TARGET - LOW_TARGET) / (scale.high - scale.low)
    return (raw - scale.low) * slope + LOW_TARGET


def normalize_maps(
    raw: Mapping[str, Grids],
    scales: Mapping[str, MapScale],
    cells: Callable[[int, int], Mask | None] = lambda _rows, _columns: None,
) -> dict[str, Grids]:
    """Return all raw maps on the common scale, by name.

    The function `cells` of the rows and columns of a grid gives the cells in which the
    level of a map is measured. Default: all.
    """
    return {
        name: normalize_map(raw[name], scale, cells(*raw[name].shape[1:]))
        for name, scale in scales.items()
    }


def combine_maps(normalized: Mapping[str, Grids]) -> Grids:
    """Return the mean of the normalized maps, on the finest of their grids.

    They are of one image, (rows, columns), or of n, (n, rows, columns).
    """
    first, *others = on_finest_grid(normalized).values()
    return sum(others, start=first) / np.float32(len(normalized))


def on_finest_grid(maps: Mapping[str, Grids]) -> dict[str, Grids]:
    """Return maps of the same images on the finest of their grids, by name."""
    rows, columns = max(grids.shape[-2:] for grids in maps.values())
    return {name: _refined(grids, rows, columns) for name, grids in maps.items()}


def _refined(grids: Grids, rows: int, columns: int) -> Grids:
    if grids.shape[-2:] == (rows, columns):
        return grids
    each = grids.reshape(-1, *grids.shape[-2:])
    refined = [refine_grid(grid, rows, columns) for grid in each]
    return np.stack(refined).reshape(*grids.shape[:-2], rows, columns)


def image_scores(combined: Grids) -> NDArray[np.float32]:
    """Return the maximum of each combined map, (n,). It rises with abnormality."""
    scores: NDArray[np.float32] = combined.max((-2, -1))
    return scores


def fit_quantiles(
    raw: Iterable[NDArray[np.float32]],
    *,
    inside: Mask | None = None,
    low: float = LOW_QUANTILE,
    high: float = HIGH_QUANTILE,
) -> MapScale:
    """Return the scale of the quantiles of placed maps, over all 256 x 256 pixels.

    Args:
        raw: Maps of normal images on the descriptor grid, at least one.
        inside: Pixels of `placement.measured_map` that count. None: all.
        low: The paper's a, in [0, 1]: the quantile that normalization sends to 0.
        high: The paper's b, in [0, 1], above `low`: the quantile sent to 0.1.
    """
    counted = slice(None) if inside is None else inside
    pixels = [measured_map(grid)[counted].ravel() for grid in raw]
    values = np.quantile(np.concatenate(pixels), (low, high))
    return MapScale(float(values[0]), float(values[1]))
