"""Defect regions found and missed at the threshold, and regions where no defect is."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from efficientad.datasets import Sample
from efficientad.evaluation.pixel_results import Annotations
from efficientad.inspection.prediction import Prediction
from efficientad.method.components import components


class RegionCounts(NamedTuple):
    """Counts of regions over the test images whose defects are annotated."""

    n_found: int
    """Annotated regions that share a pixel with a predicted one."""
    n_missed: int
    """Annotated regions that share none."""
    n_false: int
    """Predicted regions that share no pixel with an annotated one."""

    def __str__(self) -> str:
        """Return one sentence."""
        n = self.n_found + self.n_missed
        return (
            f"{self.n_found} of {n} annotated regions found at the threshold, "
            f"{self.n_false} false ones"
        )


def count_regions(
    predicted: Mapping[Sample, Prediction], annotations: Annotations
) -> RegionCounts:
    """Return how many regions of test images are found, missed and false.

    Raises:
        DatasetError: If an annotation cannot be used.
        ImageError: If it cannot be read.
    """
    return _sum(
        _counts(sample, prediction, annotations)
        for sample, prediction in predicted.items()
        if not sample.is_defect or sample.mask_path is not None
    )


def _counts(
    sample: Sample, prediction: Prediction, annotations: Annotations
) -> RegionCounts:
    if not sample.is_defect:
        return RegionCounts(0, 0, len(prediction.regions))
    height, width = prediction.height, prediction.width
    annotated = annotations.regions(sample, height, width)
    mask = prediction.region_mask
    n_found = sum(bool(mask[region].any()) for region in annotated)
    found = components(mask)
    labels = found.labels(height, width)
    is_false = np.ones(len(found.areas()) + 1, np.bool_)
    for region in annotated:
        is_false[labels[region]] = False
    is_false[-1] = False  # the pixels outside of all
    return RegionCounts(n_found, len(annotated) - n_found, int(is_false.sum()))


def _sum(counts: Iterable[RegionCounts]) -> RegionCounts:
    totals = np.sum([(0, 0, 0), *counts], axis=0).tolist()
    return RegionCounts(*totals)
