"""Exact metrics: how well scores rank images, and how well maps rank pixels. No torch.

Every distinct score is a threshold. Equal scores enter together, and a curve is linear
between two thresholds, so a tie counts half. Scores rise with abnormality.

A metric without a defined value for the data raises `UndefinedMetricError` with the
reason; it is never 0 or 1 instead.

| function | input |
|---|---|
| `au_roc`, `average_precision`, `f1_max`, `recall_at_fpr` | a score for each image |
| `pixel_au_roc`, `au_pro` | a map and a defect mask for each image |
| `au_spro` | a map and annotation channels, as in MVTec LOCO, for each image |

The pixel functions read their images one by one, from a list, an array or a generator,
and keep a copy of all scores. To measure more images than memory can hold, read them
twice and use `RegionOverlap` and `count_normal`, as `evaluate` does.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets.annotations import SaturationArea
from efficientad.errors import DatasetError, UndefinedMetricError
from efficientad.evaluation.metric_inputs import (
    Floats,
    as_anomaly_map,
    as_booleans,
    as_scores,
    check_fpr_limit,
    check_same_shape,
)
from efficientad.evaluation.region_overlap import (
    Counts,
    DefectPixels,
    RegionOverlap,
    count_normal,
    step_area,
)
from efficientad.evaluation.regions import (
    channel_pixels,
    channels_mask,
    checked_channels,
    masked_pixels,
)

AU_PRO_FPR_LIMIT = 0.3  # Bergmann et al. 2021, and what EfficientAD reports
AU_SPRO_FPR_LIMIT = 0.05  # Bergmann et al. 2022

Annotation = TypeVar("Annotation")

_MISSING: Any = object()


def au_roc(scores: NDArray[Any], is_defect: NDArray[Any]) -> float:
    """Return the share of pairs of a defect and a normal score in the right order.

    This is the area under the curve of recall over the false positive rate. A tie
    counts half: 0.5 is guessing, 1 is perfect.

    Args:
        scores: One for each image (or pixel), any shape, finite.
        is_defect: Boolean, same shape.

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
    """Return the mean precision over all defects, each at the threshold that finds it.

    This is the sum over thresholds of the gain in recall times the precision, without
    interpolation. Arguments and errors are those of `au_roc`.
    """
    reported = _reported(scores, is_defect, "average precision")
    precision = reported.n_defects / (reported.n_defects + reported.n_normal)
    found = np.diff(reported.n_defects, prepend=0)
    return float(np.sum(found * precision) / reported.n_defects[-1])


def f1_max(scores: NDArray[Any], is_defect: NDArray[Any]) -> float:
    """Return the highest harmonic mean of precision and recall over all thresholds.

    Arguments and errors are those of `au_roc`.
    """
    reported = _reported(scores, is_defect, "F1-max")
    n_reported = reported.n_defects + reported.n_normal
    return float(np.max(2 * reported.n_defects / (n_reported + reported.n_defects[-1])))


def recall_at_fpr(
    scores: NDArray[Any], is_defect: NDArray[Any], fpr_limit: float
) -> float:
    """Return the largest share of defects found with few enough false alarms.

    Thresholds are scores that occur, and one above them all. Nothing is interpolated,
    so a threshold with this recall exists.

    Args:
        scores: One for each image (or pixel), any shape, finite.
        is_defect: Boolean, same shape.
        fpr_limit: Largest share of normal images that may be reported, in (0, 1].

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
    """Return the share of pairs of a defect and a normal pixel in the right order.

    The pairs are those of all images together; a tie counts half.

    Args:
        anomaly_maps: Each (height, width), finite; images may differ in size.
        defect_masks: Each boolean, shape of its map; all False for a normal image.

    Raises:
        DatasetError: If maps and masks do not fit together.
        UndefinedMetricError: If there is no defect pixel, no normal one, or a score is
            not finite.
    """
    return _with_masks(anomaly_maps, defect_masks).au_roc("pixel AU-ROC")


def au_pro(
    anomaly_maps: Iterable[NDArray[Any]],
    defect_masks: Iterable[NDArray[Any]],
    fpr_limit: float = AU_PRO_FPR_LIMIT,
) -> float:
    """Return how much of each defect region is found, small or large alike.

    This is the area under the mean share found of each region, over the share of normal
    pixels reported, from 0 to the limit and divided by it. Regions are groups of defect
    pixels that touch, also at a corner. Bergmann et al., "The MVTec Anomaly Detection
    Dataset", IJCV 2021.

    Args:
        anomaly_maps: Each (height, width), finite; images may differ in size.
        defect_masks: Each boolean, shape of its map; all False for a normal image.
        fpr_limit: Right end of the integral, in (0, 1].

    Raises:
        ConfigError: If `fpr_limit` is outside its range.
        DatasetError: If maps and masks do not fit together.
        UndefinedMetricError: If there is no region, no normal pixel, or a score is not
            finite.
    """
    check_fpr_limit(fpr_limit)
    return _with_masks(anomaly_maps, defect_masks).area("AU-PRO", fpr_limit)


def au_spro(
    anomaly_maps: Iterable[NDArray[Any]],
    channels: Iterable[Iterable[NDArray[Any]]],
    areas: Mapping[int, SaturationArea],
    fpr_limit: float = AU_SPRO_FPR_LIMIT,
) -> float:
    """Return how much of each annotated defect is found, until its saturation area is.

    As AU-PRO, but a region counts as found completely as soon as its saturation area is
    found. Bergmann et al., "Beyond Dents and Scratches", IJCV 2022. The default limit
    is theirs; 0.1, 0.3 and 1 are in use as well.

    Args:
        anomaly_maps: Each (height, width), finite; images may differ in size. Absolute
            saturation areas count pixels of the annotation, so a map has its size.
        channels: Annotation channels of each image, none for a normal image. A channel
            is (height, width), integers: 0, and inside a defect the value of its type.
            Pixels with the same value in the same channel are one region, connected or
            not. Channels may overlap.
        areas: Saturation area for each of these values.
        fpr_limit: Right end of the integral, in (0, 1].

    Raises:
        ConfigError: If `fpr_limit` is outside its range.
        DatasetError: If maps, channels and areas do not fit together.
        UndefinedMetricError: If there is no region, no normal pixel, or a score is not
            finite.
    """
    check_fpr_limit(fpr_limit)
    defects: list[DefectPixels] = []
    normal: list[Floats] = []
    for image, scores, given in _images(anomaly_maps, channels):
        checked = list(checked_channels(given, areas, scores, image))
        defects.append(channel_pixels(scores, checked, areas))
        normal.append(scores[~channels_mask(checked, scores)])
    return _counted(defects, normal).area("AU-sPRO", fpr_limit)


class _Reported(NamedTuple):
    """Numbers of reported images at each threshold, from the highest score down."""

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


def _with_masks(
    anomaly_maps: Iterable[NDArray[Any]], defect_masks: Iterable[NDArray[Any]]
) -> RegionOverlap:
    defects: list[DefectPixels] = []
    normal: list[Floats] = []
    for image, scores, given in _images(anomaly_maps, defect_masks):
        check_same_shape(given, f"the defect mask of {image}", scores)
        mask = as_booleans(given, f"the defect mask of {image}")
        defects.append(masked_pixels(scores, mask))
        normal.append(scores[~mask])
    return _counted(defects, normal)


def _counted(defects: Iterable[DefectPixels], normal: list[Floats]) -> RegionOverlap:
    overlap = RegionOverlap(defects)
    count_normal([overlap], normal)
    return overlap


def _images(
    anomaly_maps: Iterable[NDArray[Any]], annotations: Iterable[Annotation]
) -> Iterator[tuple[str, Floats, Annotation]]:
    """Yield the name, the map and the annotation of each image."""
    pairs = zip_longest(anomaly_maps, annotations, fillvalue=_MISSING)
    for index, (anomaly_map, annotation) in enumerate(pairs):
        if anomaly_map is _MISSING or annotation is _MISSING:
            more = "annotations" if anomaly_map is _MISSING else "maps"
            raise DatasetError(
                "each map needs its annotation and each annotation its map, got more "
                f"{more} than the other, from image {index} on"
            )
        image = f"image {index}"
        scores = as_anomaly_map(anomaly_map, f"the anomaly map of {image}")
        yield image, scores, annotation
