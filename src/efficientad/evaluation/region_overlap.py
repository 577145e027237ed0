"""AU-ROC, AU-PRO and AU-sPRO of pixels as one idea: how much of each region is found.

Lower the threshold from the highest score: more of every defect region is found, and
more normal pixels are reported. Take the mean share found as a curve over the false
positive rate. The area under it, up to a limit and divided by the limit, is

    AU-ROC   with all defect pixels as one region and the limit 1,
    AU-PRO   with each connected defect as a region,
    AU-sPRO  with each annotated defect as a region that is found wholly as soon as its
             saturation area is.

The curve is a sum of steps, one for each defect pixel. A pixel's step stands where the
false positive rate is the share of normal pixels with a higher score. Normal pixels
with the same score make it a slope: equal scores enter at once, and the curve is linear
between two thresholds, as in the trapezoidal rule. So the area is a sum over defect
pixels, each looked up among the normal ones; nothing is sampled.

The module knows nothing of masks and files.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import UndefinedMetricError
from efficientad.evaluation.metric_inputs import check_fpr_limit
from efficientad.evaluation.score_counts import Counts, Floats, ScoreCounts

Shares = NDArray[np.float64]

T = TypeVar("T")

# Defect pixels that are looked up together: some 200 MiB of temporary arrays.
_BATCH_PIXELS = 2**22


class ImageRegions(NamedTuple):
    """The defect regions of one image.

    `scores` are those of the regions' pixels, one region after the other, in each the
    highest first. `sizes` counts the pixels of each region, and `saturation_areas` says
    how many of them are enough.
    """

    scores: Floats
    sizes: Counts
    saturation_areas: Shares


def step_area(above: Counts, tied: Counts, limit: float) -> Shares:
    """Give the mean height up to a limit of steps from 0 to 1.

    Args:
        above: Where each step begins: the normal scores above a defect's score.
        tied: How wide its slope is: the normal scores that are the same.
        limit: The right end, above 0, in the same unit.
    """
    right_of_begin = np.maximum(limit - above, 0)
    on_slope = np.minimum(right_of_begin, tied)
    missing = on_slope * (1 - on_slope / (2 * np.maximum(tied, 1)))
    height: Shares = (right_of_begin - missing) / limit
    return height


def saturating_shares(sizes: Counts, saturation_areas: Shares) -> Shares:
    """Give what each pixel adds to its region's overlap, highest score first."""
    rank = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    saturation_area = np.repeat(saturation_areas, sizes)
    shares: Shares = np.clip(saturation_area - rank, 0, 1) / saturation_area
    return shares


class RegionOverlap:
    """Normal pixels and defect regions, collected image by image.

    Memory: the scores of the defect pixels, and a count for each distinct score of the
    normal ones.
    """

    def __init__(self) -> None:
        self.n_images = 0
        self.normal: list[ScoreCounts] = []
        self.defects: list[Floats] = []
        self.regions: list[ImageRegions] = []
        # Those of `normal` that may grow: none that belongs to another overlap.
        self._open_tables: dict[np.dtype[Any], ScoreCounts] = {}

    @classmethod
    def joined(cls, parts: Iterable["RegionOverlap"]) -> "RegionOverlap":
        """Give all images of several parts together, without copying them."""
        overlap = cls()
        for part in parts:
            overlap.n_images += part.n_images
            overlap.normal += part.normal
            overlap.defects += part.defects
            overlap.regions += part.regions
        return overlap

    def add(self, normal: Floats, defects: Floats, regions: ImageRegions) -> None:
        """Take one image into account.

        Args:
            normal: Scores of the pixels outside all regions, one axis.
            defects: Scores of the pixels inside any region, each pixel once.
            regions: The same pixels by region; regions may share pixels.
        """
        self._table_for(normal).add(normal)
        if regions.sizes.size:
            self.defects.append(defects)
            self.regions.append(regions)
        self.n_images += 1

    def au_roc(self, metric: str) -> float:
        """Give the area with all defect pixels as one region.

        Args:
            metric: Its name, for the message where it is undefined.

        Raises:
            UndefinedMetricError: If there is no defect pixel or no normal one.
        """
        n_defects = sum(scores.size for scores in self.defects)
        if not n_defects:
            raise self._undefined(metric, "defect pixel")
        limit = float(self._n_normal(metric))
        heights = (
            np.sum(self._heights(np.concatenate(batch), limit))
            for batch in _batches(self.defects, [s.size for s in self.defects])
        )
        return float(sum(heights) / n_defects)

    def area(self, metric: str, fpr_limit: float) -> float:
        """Give the area under the mean share found of each region.

        Args:
            metric: Its name, for the message where it is undefined.
            fpr_limit: Right end of the integral, in (0, 1]; the area is divided by it.

        Raises:
            ConfigError: If `fpr_limit` is outside its range.
            UndefinedMetricError: If there is no region or no normal pixel.
        """
        check_fpr_limit(fpr_limit)
        n_regions = sum(regions.sizes.size for regions in self.regions)
        if not n_regions:
            raise self._undefined(metric, "defect region")
        limit = fpr_limit * self._n_normal(metric)
        overlaps = 0.0
        for batch in _batches(self.regions, [r.scores.size for r in self.regions]):
            scores, sizes, saturation_areas = map(
                np.concatenate, zip(*batch, strict=True)
            )
            shares = saturating_shares(sizes, saturation_areas)
            overlaps += float(np.sum(shares * self._heights(scores, limit)))
        return overlaps / n_regions

    def _heights(self, scores: Floats, limit: float) -> Shares:
        above = np.zeros(scores.size, np.int64)
        tied = np.zeros(scores.size, np.int64)
        for table in self.normal:
            more_above, more_tied = table.above_and_tied(scores)
            above += more_above
            tied += more_tied
        return step_area(above, tied, limit)

    def _table_for(self, scores: Floats) -> ScoreCounts:
        table = self._open_tables.get(scores.dtype)
        if table is None or not table.has_room_for(scores.size):
            table = ScoreCounts(scores.dtype)
            self._open_tables[scores.dtype] = table
            self.normal.append(table)
        return table

    def _n_normal(self, metric: str) -> int:
        n_normal = sum(table.n_scores for table in self.normal)
        if not n_normal:
            raise self._undefined(metric, "normal pixel")
        return n_normal

    def _undefined(self, metric: str, missing: str) -> UndefinedMetricError:
        return UndefinedMetricError(
            f"{metric} needs at least one {missing}, got none in {self.n_images} "
            "images; add images that have one, or leave the metric out"
        )


def _batches(items: Sequence[T], n_pixels: Sequence[int]) -> Iterator[Sequence[T]]:
    """Group successive items until a group has enough pixels to be worth a look-up."""
    ends = np.cumsum(n_pixels)
    first = 0
    while first < len(items):
        before = ends[first] - n_pixels[first]
        last = int(np.searchsorted(ends, before + _BATCH_PIXELS)) + 1
        yield items[first:last]
        first = last
