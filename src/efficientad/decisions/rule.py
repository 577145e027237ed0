"""The rule from a combined map to a score: where a defect counts, and from which area.

The score is the highest level at which the pixels of a region of interest hold a
connected group of the least area. For one pixel and the whole image that is the
paper's maximum of the map. So an image is above a threshold if, and only if, a region
of this area is.

Areas are measured on the map as the networks see the image, where one pixel of 256 x
256 stands for many pixels of a large image.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.errors import ConfigError, ImageError
from efficientad.images.components import components
from efficientad.images.encoding import pixels_of_text, png_text
from efficientad.images.pose import Pose
from efficientad.images.rgb import Mask
from efficientad.method.maps import Grids, image_scores
from efficientad.method.placement import (
    cells_of_pixels,
    input_size,
    map_size,
    measured_map,
)
from efficientad.method.sizes import GRID_SIZE
from efficientad.settings import Range, check_fields

Map = NDArray[np.float32]
"""(height, width)."""

MASK_SIDE: Final = 1024
"""Longest side of a stored region of interest, in pixels."""
WHITE: Final = 128
"""Least gray value of a picture that counts as white."""
_ASPECT_TOLERANCE: Final = 0.02
"""Relative difference between two aspects that count as the same."""


@dataclass(frozen=True, slots=True)
class Region:
    """A connected group of pixels above the threshold, in pixels of the image."""

    x: int
    """Left column of the box."""
    y: int
    """Upper row of the box."""
    width: int
    """Columns of the box."""
    height: int
    """Rows of the box."""
    area: float
    """Pixels of the region."""
    centroid_x: float
    """Mean column, where the center of the first pixel is at 0."""
    centroid_y: float
    """Mean row."""
    peak: float
    """Highest value of the combined map in the region."""
    mean: float
    """Mean value of the combined map in the region."""
    area_mm2: float | None = None
    """Area in square millimetres, where the size of a pixel is known."""

    def in_own_frame(self, pose: Pose, height: int, width: int) -> "Region":
        """Return this region of an aligned image with its box in the image's frame."""
        corners = [
            pose.point_in_own_frame(x, y, height, width)
            for x in (self.x, self.x + self.width)
            for y in (self.y, self.y + self.height)
        ]
        columns, rows = zip(*corners, strict=True)
        left, right = max(0, math.floor(min(columns))), math.ceil(max(columns))
        top, bottom = max(0, math.floor(min(rows))), math.ceil(max(rows))
        centroid_x, centroid_y = pose.point_in_own_frame(
            self.centroid_x + 0.5, self.centroid_y + 0.5, height, width
        )
        return replace(
            self,
            x=min(left, width - 1),
            y=min(top, height - 1),
            width=max(1, min(width, right) - left),
            height=max(1, min(height, bottom) - top),
            centroid_x=centroid_x - 0.5,
            centroid_y=centroid_y - 0.5,
        )


@dataclass(frozen=True)
class Rule:
    """Region of interest and least area of a defect. Default: anywhere, any size."""

    region_of_interest: str = ""
    """PNG of the region of interest, white where defects count, in base64. Empty: the
    whole image."""

    min_area: Annotated[float, Range(0, 1)] = 0.0
    """Least area of a defect, as a share of the image's area."""

    image_mm2: Annotated[float, Range(1e-12, 1e21)] | None = None
    """Area that an image shows, in square millimetres. None: unknown."""

    def __post_init__(self) -> None:
        """Reject a region of interest that is no picture, or empty."""
        check_fields(self)
        inside = self.inside(GRID_SIZE, GRID_SIZE)
        if inside is not None and not inside.any():
            raise ConfigError(
                "the region of interest is empty, or thinner than 1/256 of the image; "
                "mark where defects count"
            )

    @property
    def is_plain(self) -> bool:
        """Whether the score is the maximum of the map."""
        return not self.region_of_interest and self.min_area == 0

    @cached_property
    def mask(self) -> Mask:
        """Region of interest at the size it is stored in; (1, 1) for the whole image.

        Raises:
            ConfigError: If it cannot be read.
        """
        if not self.region_of_interest:
            return np.ones((1, 1), np.bool_)
        return _decoded(self.region_of_interest)

    def mask_at(self, height: int, width: int) -> Mask:
        """Return the region of interest at any size, (height, width)."""
        return _resized(self.mask, height, width)

    def cells(self, rows: int, columns: int) -> Mask | None:
        """Return the grid's cells that pixels of the region of interest are nearest to.

        None: all of them, for the whole image.
        """
        if not self.region_of_interest:
            return None
        mask = self.mask_at(*map(input_size, (rows, columns)))
        for axis, n_cells in enumerate((rows, columns)):
            mask = np.logical_or.reduceat(mask, cells_of_pixels(n_cells), axis=axis)
        return mask

    def inside(self, rows: int, columns: int) -> Mask | None:
        """Return the region of interest on the map of a grid; None: the whole image."""
        size = map_size(rows, columns)
        return self.mask_at(*size) if self.region_of_interest else None

    def require_aspect(self, height: int, width: int) -> None:
        """Raise `ImageError` if the region of interest is of another aspect."""
        rows, columns = self.mask.shape
        # The mask is stored in whole pixels.
        tolerance = _ASPECT_TOLERANCE + 1 / (2 * min(rows, columns))
        is_same = is_same_aspect((height, width), (rows, columns), tolerance)
        if self.region_of_interest and not is_same:
            raise ImageError(
                f"the region of interest was drawn for images of {columns / rows:.3g} "
                f"times their height, got one of {width} x {height} pixels; use such "
                "images, or set another region"
            )

    def scores(self, combined: Grids) -> NDArray[np.float32]:
        """Return the score of each combined map, (n,)."""
        if self.is_plain:
            return image_scores(combined)
        found = [self._score(*self._placed(grid)) for grid in combined]
        return np.array(found, np.float32)

    def regions(
        self, combined: Grids, level: float, height: int, width: int
    ) -> tuple[Region, ...]:
        """Return the regions of the least area above a level, the largest first.

        The combined map, (rows, columns), is that of an image of (height, width).
        """
        values, inside = self._placed(combined)
        found = components(inside & (values > np.float64(level)))
        areas = found.areas()
        rows, columns = values.shape
        down, across = height / rows, width / columns
        labels = found.labels(rows, columns)
        regions = []
        for group in np.flatnonzero(areas >= self._n_pixels(values)):
            runs = found.group_of_run == group
            y, x, ends = found.rows[runs], found.starts[runs], found.ends[runs]
            top, left = math.floor(y.min() * down), math.floor(x.min() * across)
            lengths = ends - x
            inner = values[labels == group]
            share = areas[group] / values.size
            center_x = ((x + ends) / 2 * lengths).sum() / lengths.sum() * across
            center_y = ((y + 0.5) * lengths).sum() / lengths.sum() * down
            regions.append(
                Region(
                    x=left,
                    y=top,
                    width=min(width, math.ceil(ends.max() * across)) - left,
                    height=min(height, math.ceil((y.max() + 1) * down)) - top,
                    area=round(share * height * width, 2),
                    centroid_x=float(center_x - 0.5),
                    centroid_y=float(center_y - 0.5),
                    peak=float(inner.max()),
                    mean=float(inner.mean()),
                    area_mm2=self.image_mm2 and share * self.image_mm2,
                )
            )
        return tuple(sorted(regions, key=lambda r: (-r.area, -r.peak)))

    def region_mask(
        self, combined: Grids, level: float, height: int, width: int
    ) -> Mask:
        """Return the pixels of all regions, (height, width)."""
        values, inside = self._placed(combined)
        found = components(inside & (values > np.float64(level)))
        is_large = np.append(found.areas() >= self._n_pixels(values), values=False)
        return _resized(is_large[found.labels(*values.shape)], height, width)

    def _placed(self, grid: Map) -> tuple[Map, Mask]:
        """Return a map at the size that areas are measured at, and the mask there."""
        values = measured_map(grid)
        return values, self.mask_at(*values.shape)

    def _n_pixels(self, values: Map) -> int:
        return max(1, math.ceil(self.min_area * values.size - 1e-6))

    def _score(self, values: Map, inside: Mask) -> float:
        """Return the highest level with a group of the least area.

        It is the lowest value inside where no level has one.
        """
        n = self._n_pixels(values)
        ordered = np.sort(values[inside])[::-1]
        if n == 1:
            return float(ordered[0])
        # The level is one of the values: search their order for the first that will do.
        low, high = min(n, len(ordered)) - 1, len(ordered) - 1
        while low < high:
            middle = (low + high) // 2
            areas = components(inside & (values >= ordered[middle])).areas()
            low, high = (low, middle) if areas.max() >= n else (middle + 1, high)
        return float(ordered[low])


ANYWHERE: Final = Rule()
"""The paper's rule: a defect of any size counts anywhere."""


def _resized(mask: Mask, height: int, width: int) -> Mask:
    """Return a mask at another size, where each pixel is the nearest one."""
    rows, columns = (
        ((np.arange(n) + 0.5) * (n_mask / n)).astype(np.intp)
        for n, n_mask in zip((height, width), mask.shape, strict=True)
    )
    found: Mask = mask[rows][:, columns]
    return found


def is_same_aspect(
    one: tuple[int, int],
    other: tuple[int, int],
    tolerance: float = _ASPECT_TOLERANCE,
) -> bool:
    """Return whether two sizes, (height, width), have nearly the same aspect.

    Args:
        one: First size.
        other: Second size.
        tolerance: Largest difference of their aspects' logarithms.
    """
    ratio = one[0] * other[1] / (one[1] * other[0])
    return abs(math.log(ratio)) <= tolerance


def encode_mask(mask: Mask) -> str:
    """Return a region of interest as `Rule` stores it, at most 1024 pixels a side."""
    shrink = min(1.0, MASK_SIDE / max(mask.shape))
    height, width = (max(1, round(n * shrink)) for n in mask.shape)
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    if shrink < 1:
        picture = picture.resize((width, height), Image.Resampling.BOX)
    return png_text(np.asarray(picture) >= WHITE)


@lru_cache(maxsize=8)
def _decoded(text: str) -> Mask:
    try:
        mask: Mask = pixels_of_text(text, MASK_SIDE) >= WHITE
    except ValueError:
        raise ConfigError(
            "the region of interest is no stored mask; set it again"
        ) from None
    mask.flags.writeable = False
    return mask
