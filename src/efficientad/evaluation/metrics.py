"""How well scores rank images, and maps rank pixels: exact, no torch.

Every distinct score is a threshold. Equal scores enter at once, and a curve is linear
between two thresholds, so a tie counts half. Scores rise with abnormality.

A metric without a defined value for the data raises `UndefinedMetricError` that says
why; it is never 0 or 1 instead.

| function | what |
|---|---|
| `au_roc`, `average_precision`, `f1_max`, `recall_at_fpr` | one score for each image |
| `pixel_au_roc`, `au_pro` | one map for each image, and a defect mask |
| `au_spro` | one map for each image, and annotation channels as in MVTec LOCO |

The pixel functions read their images one by one, from a list, an array or a generator,
and hold neither maps nor masks. For more than one pixel metric over images that are
read from disk, fill a `PixelMetrics` or a `ChannelMetrics` and ask it.

The module knows nothing of detectors, folders and reports.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets.annotations import SaturationArea
from efficientad.errors import DatasetError, UndefinedMetricError
from efficientad.evaluation.metric_inputs import (
    as_booleans,
    as_scores,
    check_fpr_limit,
    check_same_shape,
)
from efficientad.evaluation.pixel_metrics import (
    AU_PRO_FPR_LIMIT,
    AU_SPRO_FPR_LIMIT,
    ChannelMetrics,
    PixelMetrics,
)
from efficientad.evaluation.region_overlap import step_area
from efficientad.evaluation.score_counts import Counts, Floats

__all__ = [
    "ChannelMetrics",
    "PixelMetrics",
    "SaturationArea",
    "au_pro",
    "au_roc",
    "au_spro",
    "average_precision",
    "f1_max",
    "pixel_au_roc",
    "recall_at_fpr",
]

Annotation = TypeVar("Annotation")

_MISSING: Any = object()


def au_roc(scores: NDArray[Any], is_defect: NDArray[Any]) -> float:
    """Give the share of pairs of a normal and a defective one in the right order.

    That is the area under the curve of recall over the false positive rate. A tie
    counts half: 0.5 is guessing, 1 is perfect.

    Args:
        scores: One for each image (or pixel), any shape, finite.
        is_defect: Boolean, of the same shape.

    Raises:
        DatasetError: If the two do not fit together.
        UndefinedMetricError: If there is no defect, nothing normal, or a score is not
            finite.
    """
    scores, is_defect = _checked(scores, is_defect, "AU-ROC")
    normal = np.sort(scores[~is_defect])
    defects = scores[is_defect]
    not_above = np.searchsorted(normal, defects, side="right")
    tied = not_above - np.searchsorted(normal, defects, side="left")
    n_normal = float(normal.size)
    return float(np.mean(step_area(normal.size - not_above, tied, n_normal)))


def average_precision(scores: NDArray[Any], is_defect: NDArray[Any]) -> float:
    """Give the mean precision over all defects, each at the threshold that finds it.

    The sum over thresholds of the gain in recall times the precision, not interpolated.

    Args:
        scores: One for each image (or pixel), any shape, finite.
        is_defect: Boolean, of the same shape.

    Raises:
        DatasetError: If the two do not fit together.
        UndefinedMetricError: If there is no defect, nothing normal, or a score is not
            finite.
    """
    reported = _reported(scores, is_defect, "average precision")
    precision = reported.n_defects / (reported.n_defects + reported.n_normal)
    found = np.diff(reported.n_defects, prepend=0)
    return float(np.sum(found * precision) / reported.n_defects[-1])


def f1_max(scores: NDArray[Any], is_defect: NDArray[Any]) -> float:
    """Give the highest harmonic mean of precision and recall over all thresholds.

    Args:
        scores: One for each image (or pixel), any shape, finite.
        is_defect: Boolean, of the same shape.

    Raises:
        DatasetError: If the two do not fit together.
        UndefinedMetricError: If there is no defect, nothing normal, or a score is not
            finite.
    """
    reported = _reported(scores, is_defect, "F1-max")
    n_reported = reported.n_defects + reported.n_normal
    return float(np.max(2 * reported.n_defects / (n_reported + reported.n_defects[-1])))


def recall_at_fpr(
    scores: NDArray[Any], is_defect: NDArray[Any], fpr_limit: float
) -> float:
    """Give the largest share of defects found with few enough false alarms.

    Thresholds are scores that occur, and one above them all: nothing is interpolated,
    so a threshold with this recall exists.

    Args:
        scores: One for each image (or pixel), any shape, finite.
        is_defect: Boolean, of the same shape.
        fpr_limit: The largest share of normal ones that may be reported, in (0, 1].

    Raises:
        ConfigError: If `fpr_limit` is outside its range.
        DatasetError: If the two do not fit together.
        UndefinedMetricError: If there is no defect, nothing normal, or a score is not
            finite.
    """
    check_fpr_limit(fpr_limit)
    reported = _reported(scores, is_defect, "recall at a false positive rate")
    is_allowed = reported.n_normal / reported.n_normal[-1] <= fpr_limit
    return float(
        np.max(reported.n_defects[is_allowed], initial=0) / reported.n_defects[-1]
    )


def pixel_au_roc(
    anomaly_maps: Iterable[NDArray[Any]], defect_masks: Iterable[NDArray[Any]]
) -> float:
    """Give the share of pairs of a normal and a defect pixel in the right order.

    Over the pixels of all images together; a tie counts half.

    Args:
        anomaly_maps: Each (height, width), finite; images may differ in size.
        defect_masks: Each boolean, of its map's shape; all False for a normal image.

    Raises:
        DatasetError: If maps and masks do not fit together.
        UndefinedMetricError: If there is no defect pixel, no normal one, or a score is
            not finite.
    """
    return _pixel_metrics(anomaly_maps, defect_masks).pixel_au_roc()


def au_pro(
    anomaly_maps: Iterable[NDArray[Any]],
    defect_masks: Iterable[NDArray[Any]],
    fpr_limit: float = AU_PRO_FPR_LIMIT,
) -> float:
    """Give how much of each defect region is found, small or large alike.

    The area under the mean share found of each region, over the share of normal pixels
    reported, from 0 to the limit and divided by it. Regions are groups of defect pixels
    that touch, also at a corner. Bergmann et al., "The MVTec Anomaly Detection
    Dataset", IJCV 2021.

    Args:
        anomaly_maps: Each (height, width), finite; images may differ in size.
        defect_masks: Each boolean, of its map's shape; all False for a normal image.
        fpr_limit: Right end of the integral, in (0, 1].

    Raises:
        ConfigError: If `fpr_limit` is outside its range.
        DatasetError: If maps and masks do not fit together.
        UndefinedMetricError: If there is no region, no normal pixel, or a score is not
            finite.
    """
    check_fpr_limit(fpr_limit)
    return _pixel_metrics(anomaly_maps, defect_masks).au_pro(fpr_limit)


def au_spro(
    anomaly_maps: Iterable[NDArray[Any]],
    channels: Iterable[Iterable[NDArray[Any]]],
    areas: Mapping[int, SaturationArea],
    fpr_limit: float = AU_SPRO_FPR_LIMIT,
) -> float:
    """Give how much of each annotated defect is found, until its saturation area is.

    As AU-PRO, but a region counts as found wholly as soon as its saturation area is.
    Bergmann et al., "Beyond Dents and Scratches", IJCV 2022. The default limit is
    theirs; 0.1, 0.3 and 1 are in use as well.

    Args:
        anomaly_maps: Each (height, width) as the annotation, finite; images may differ
            in size.
        channels: For each image its annotation channels, none if it is normal. A
            channel is (height, width), integers: 0, and inside a defect the value of
            its type.
        areas: The saturation area for each of these values.
        fpr_limit: Right end of the integral, in (0, 1].

    Raises:
        ConfigError: If `fpr_limit` is outside its range.
        DatasetError: If maps, channels and areas do not fit together.
        UndefinedMetricError: If there is no region, no normal pixel, or a score is not
            finite.
    """
    check_fpr_limit(fpr_limit)
    metrics = ChannelMetrics(areas)
    for anomaly_map, image_channels in _pairs(anomaly_maps, channels):
        metrics.add(anomaly_map, image_channels)
    return metrics.au_spro(fpr_limit)


class _Reported(NamedTuple):
    """What is reported at each threshold, from the highest score down."""

    n_defects: Counts
    n_normal: Counts


def _reported(scores: NDArray[Any], is_defect: NDArray[Any], metric: str) -> _Reported:
    scores, is_defect = _checked(scores, is_defect, metric)
    descending = np.argsort(scores)[::-1]
    scores = scores[descending]
    last_of_equals = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    n_defects = np.cumsum(is_defect[descending], dtype=np.int64)[last_of_equals]
    return _Reported(n_defects, last_of_equals + 1 - n_defects)


def _checked(
    scores: NDArray[Any], is_defect: NDArray[Any], metric: str
) -> tuple[Floats, NDArray[np.bool_]]:
    scores = as_scores(scores, "scores")
    check_same_shape(is_defect, "is_defect", scores)
    is_defect = as_booleans(is_defect, "is_defect").ravel()
    n_defects = np.count_nonzero(is_defect)
    if n_defects in (0, is_defect.size):
        raise UndefinedMetricError(
            f"{metric} needs at least one defective and one normal score, got "
            f"{n_defects} defective and {is_defect.size - n_defects} normal; "
            "add what is missing, or leave the metric out"
        )
    return scores.ravel(), is_defect


def _pixel_metrics(
    anomaly_maps: Iterable[NDArray[Any]], defect_masks: Iterable[NDArray[Any]]
) -> PixelMetrics:
    metrics = PixelMetrics()
    for anomaly_map, defect_mask in _pairs(anomaly_maps, defect_masks):
        metrics.add(anomaly_map, defect_mask)
    return metrics


def _pairs(
    anomaly_maps: Iterable[NDArray[Any]], annotations: Iterable[Annotation]
) -> Iterator[tuple[NDArray[Any], Annotation]]:
    """Each map with its annotation; as many of the one as of the other."""
    pairs = zip_longest(anomaly_maps, annotations, fillvalue=_MISSING)
    for index, (anomaly_map, annotation) in enumerate(pairs):
        if anomaly_map is _MISSING or annotation is _MISSING:
            more = "annotations" if anomaly_map is _MISSING else "maps"
            raise DatasetError(
                "each map needs its annotation and each annotation its map, got more "
                f"{more} than the other, from image {index} on"
            )
        yield anomaly_map, annotation
