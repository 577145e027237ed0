"""AU-ROC, AU-PRO and AU-sPRO of pixels as one idea: the share found of each region.

Lower the threshold from the highest score. More of every defect region is found, and
more normal pixels are reported. The mean share found is a curve over the false positive
rate. The area under the curve, up to a limit and divided by it, is

    AU-ROC   with all defect pixels as one region and the limit 1,
    AU-PRO   with each connected defect as a region,
    AU-sPRO  with each annotated defect as a region that counts as found completely once
             its saturation area is found.

The curve is a sum of steps, one for each defect pixel. A pixel's step stands where the
false positive rate is the share of normal pixels with a higher score. Normal pixels
with the same score turn the step into a slope: equal scores enter together, and the
curve is linear between two thresholds, as in the trapezoidal rule. So the exact area
needs two counts for each distinct score of a defect pixel: the normal pixels above it,
and those equal to it. Images are read twice: first for the scores of their defect
pixels, then to count their normal pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import UndefinedMetricError
from efficientad.evaluation.metrics import Counts, Floats, Shares, step_area

# Normal pixels that are sorted together: 64 MiB of float32.
_BATCH_PIXELS = 2**24

# Thresholds that are searched together: 16 MiB of temporary arrays.
_BATCH_THRESHOLDS = 2**20


class DefectPixels(NamedTuple):
    """The defect pixels of one image."""

    scores: Floats
    """Each defect pixel once."""
    in_regions: Floats
    """The pixels of each region, the highest score first, one region after another.
    Regions may share pixels."""
    sizes: Counts
    """Number of pixels in each region."""
    saturation_areas: Shares
    """Number of pixels that count as the complete region, at most its size."""


class RegionOverlap:
    """Counts of normal pixels at the scores of defect pixels, and areas from them.

    Memory grows with the number of defect pixels only. The normal pixels of the same
    and of other images are added by `count_normal`.
    """

    def __init__(self, images: Iterable[DefectPixels]) -> None:
        images = [image for image in images if image.sizes.size]
        scores = [image.scores for image in images]
        self._thresholds, self._n_defects = np.unique(
            np.concatenate(scores) if scores else np.empty(0), return_counts=True
        )
        self._shares = np.zeros(self._thresholds.size)
        """Sum of what the pixels with each score add to the shares of their regions."""
        for image in images:
            places = np.searchsorted(self._thresholds, image.in_regions)
            np.add.at(self._shares, places, _shares(image))
        self._n_regions = sum(image.sizes.size for image in images)
        self._above = np.zeros(self._thresholds.size, np.int64)
        self._tied = np.zeros(self._thresholds.size, np.int64)
        self._n_normal = 0
        self._n_images = 0

    def count(self, normal: Floats, n_images: int) -> None:
        """Count normal pixels, of `n_images`, by their scores in ascending order."""
        self._n_images += n_images
        self._n_normal += normal.size
        for first in range(0, self._thresholds.size, _BATCH_THRESHOLDS):
            batch = slice(first, first + _BATCH_THRESHOLDS)
            thresholds = self._thresholds[batch]
            not_above = np.searchsorted(normal, thresholds, side="right")
            self._above[batch] += normal.size - not_above
            below = np.searchsorted(normal, thresholds, side="left")
            self._tied[batch] += not_above - below

    def au_roc(self, metric: str) -> float:
        """Return the area with all defect pixels as one region.

        Raises:
            UndefinedMetricError: If there is no defect pixel or no normal one.
        """
        n_defects = int(self._n_defects.sum())
        self._require(n_defects, metric, "defect pixel")
        heights = self._heights(metric, 1)
        return float(np.sum(self._n_defects * heights)) / n_defects

    def area(self, metric: str, fpr_limit: float) -> float:
        """Return the area under the mean share found of each region.

        The limit, in (0, 1], is the right end of the integral, which is divided by it.

        Raises:
            UndefinedMetricError: If there is no region or no normal pixel.
        """
        self._require(self._n_regions, metric, "defect region")
        heights = self._heights(metric, fpr_limit)
        return float(np.sum(self._shares * heights)) / self._n_regions

    def _heights(self, metric: str, fpr_limit: float) -> Shares:
        self._require(self._n_normal, metric, "normal pixel")
        return step_area(self._above, self._tied, fpr_limit * self._n_normal)

    def _require(self, n: int, metric: str, missing: str) -> None:
        if n == 0:
            raise UndefinedMetricError(
                f"{metric} needs at least one {missing}, got none in {self._n_images} "
                "images; add images that have one, or leave the metric out"
            )


def count_normal(overlaps: Sequence[RegionOverlap], images: Iterable[Floats]) -> None:
    """Count the normal pixels of each image, (pixels,), in all overlaps."""
    for batch in _batches(images):
        normal = np.concatenate(batch)
        normal.sort()
        for overlap in overlaps:
            overlap.count(normal, len(batch))


def _shares(image: DefectPixels) -> Shares:
    """Return the share of its region that each pixel adds."""
    sizes, areas = image.sizes, image.saturation_areas
    rank = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    saturation_area = np.repeat(areas, sizes)
    shares: Shares = np.clip(saturation_area - rank, 0, 1) / saturation_area
    return shares


def _batches(images: Iterable[NDArray[Any]]) -> Iterator[list[NDArray[Any]]]:
    """Group successive images until a group has enough pixels."""
    batch: list[NDArray[Any]] = []
    for image in images:
        batch.append(image)
        if sum(each.size for each in batch) >= _BATCH_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch
