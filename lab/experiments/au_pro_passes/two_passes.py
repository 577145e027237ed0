"""AU-ROC and AU-PRO by two exact passes: defect scores first, then counting."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from efficientad.evaluation.region_overlap import (
    ImageRegions,
    saturating_shares,
    step_area,
)
from efficientad.evaluation.score_counts import Floats

BATCH_PIXELS = 2**24


class TwoPasses:
    """Counts normal pixels above and at each distinct score of a defect pixel."""

    def __init__(self, images: Sequence[ImageRegions]) -> None:
        self.images = images
        scores = [image.scores for image in images]
        self.thresholds = np.unique(np.concatenate(scores))
        self.above = np.zeros(self.thresholds.size, np.int64)
        self.tied = np.zeros(self.thresholds.size, np.int64)
        self.n_normal = 0

    def count(self, normal: Floats) -> None:
        """Count normal scores, ascending."""
        self.n_normal += normal.size
        for first in range(0, self.thresholds.size, 2**20):
            part = slice(first, first + 2**20)
            thresholds = self.thresholds[part]
            right = np.searchsorted(normal, thresholds, "right")
            self.above[part] += normal.size - right
            self.tied[part] += right - np.searchsorted(normal, thresholds, "left")

    def area(self, fpr_limit: float) -> float:
        """Return the area under the mean share found."""
        overlaps, n_regions = 0.0, 0
        for image in self.images:
            shares = saturating_shares(image.sizes, image.saturation_areas)
            overlaps += float(shares @ self._heights(image.scores, fpr_limit))
            n_regions += image.sizes.size
        return overlaps / n_regions

    def au_roc(self) -> float:
        """Return the area with all defect pixels as one region."""
        heights = [self._heights(image.scores, 1.0) for image in self.images]
        total = sum(float(np.sum(each)) for each in heights)
        return total / sum(each.size for each in heights)

    def _heights(self, scores: Floats, fpr_limit: float) -> np.ndarray:
        at = np.searchsorted(self.thresholds, scores)
        return step_area(self.above[at], self.tied[at], fpr_limit * self.n_normal)


def count_normal(counters: Sequence[TwoPasses], images: Iterable[Floats]) -> None:
    """Count the normal pixels of images for several metrics; sort them once."""
    for batch in batches(images):
        normal = np.concatenate(batch)
        batch.clear()
        normal.sort()
        for counter in counters:
            counter.count(normal)


def batches(images: Iterable[Floats]) -> Iterator[list[Floats]]:
    """Group scores of images until there are enough to sort."""
    batch: list[Floats] = []
    n_pixels = 0
    for normal in images:
        batch.append(normal)
        n_pixels += normal.size
        if n_pixels >= BATCH_PIXELS:
            yield batch
            batch, n_pixels = [], 0
    if batch:
        yield batch
