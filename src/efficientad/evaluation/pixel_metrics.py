"""Pixel metrics of more images than memory can hold: add one by one, ask at the end.

What a region is, in two ways. With a defect mask (MVTec AD, VisA) it is each connected
group of defect pixels. With annotation channels (MVTec LOCO) it is what was annotated
as one defect, which need not be connected, and which may count as found before its last
pixel is.

Sources: for AU-PRO, Bergmann et al., "The MVTec Anomaly Detection Dataset: A
Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", IJCV 2021; for
AU-sPRO, Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in
Unsupervised Anomaly Detection and Localization", IJCV 2022; and the evaluation scripts
published with both.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets.annotations import SaturationArea
from efficientad.errors import DatasetError, MissingDependencyError
from efficientad.evaluation.metric_inputs import (
    as_anomaly_map,
    as_booleans,
    check_same_shape,
)
from efficientad.evaluation.region_overlap import ImageRegions, RegionOverlap
from efficientad.evaluation.score_counts import Counts, Floats

AU_PRO_FPR_LIMIT = 0.3  # Bergmann et al. 2021, and what EfficientAD reports
AU_SPRO_FPR_LIMIT = 0.05  # Bergmann et al. 2022

# Pixels that touch at a corner are connected, as in MVTec's evaluation script.
_NEIGHBORHOOD = np.ones((3, 3), bool)


class PixelMetrics:
    """Pixel AU-ROC and AU-PRO, with a defect mask for each image.

    metrics = PixelMetrics()
    for anomaly_map, defect_mask in read_test_images():
        metrics.add(anomaly_map, defect_mask)
    metrics.pixel_au_roc(), metrics.au_pro()
    """

    def __init__(self) -> None:
        self.overlap = RegionOverlap()

    @classmethod
    def joined(cls, parts: Iterable["PixelMetrics"]) -> "PixelMetrics":
        """Give the metrics over the images of several parts.

        Nothing is copied: it costs little to measure each defect type against the same
        normal images. Add no image to a part while the result is in use.
        """
        metrics = cls()
        metrics.overlap = RegionOverlap.joined(part.overlap for part in parts)
        return metrics

    def add(self, anomaly_map: NDArray[Any], defect_mask: NDArray[Any]) -> None:
        """Take one image into account. Images may differ in size.

        Args:
            anomaly_map: (height, width), finite. Scores are compared as they are:
                float32 or narrower in float32, others in float64, which needs far more
                memory.
            defect_mask: (height, width), boolean; all False for a normal image.

        Raises:
            DatasetError: If the map is no map, the mask no mask or of another shape.
            UndefinedMetricError: If a score is not finite.
        """
        image = f"image {self.overlap.n_images}"
        scores = as_anomaly_map(anomaly_map, f"the anomaly map of {image}")
        check_same_shape(defect_mask, f"the defect mask of {image}", scores)
        mask = as_booleans(defect_mask, f"the defect mask of {image}")
        regions = _connected_regions(scores, mask)
        self.overlap.add(scores[~mask], regions.scores, regions)

    def pixel_au_roc(self) -> float:
        """Give the share of pairs of a normal and a defect pixel in the right order.

        A tie counts half.

        Raises:
            UndefinedMetricError: If there is no defect pixel or no normal one.
        """
        return self.overlap.au_roc("pixel AU-ROC")

    def au_pro(self, fpr_limit: float = AU_PRO_FPR_LIMIT) -> float:
        """Give the mean share found of each region, over the false positive rate.

        Args:
            fpr_limit: Right end of the integral, in (0, 1]; the area is divided by it.

        Raises:
            ConfigError: If `fpr_limit` is outside its range.
            UndefinedMetricError: If there is no region or no normal pixel.
        """
        return self.overlap.area("AU-PRO", fpr_limit)


class ChannelMetrics:
    """Pixel AU-ROC and AU-sPRO, with annotation channels for each image.

    Args:
        areas: The saturation area for each pixel value of the channels, as
            `read_saturation_areas` reads them.
    """

    def __init__(self, areas: Mapping[int, SaturationArea]) -> None:
        self.areas = dict(areas)
        self.overlap = RegionOverlap()

    @classmethod
    def joined(cls, parts: Iterable["ChannelMetrics"]) -> "ChannelMetrics":
        """Give the metrics over several parts, as `PixelMetrics.joined`."""
        metrics = cls({})
        for part in parts:
            metrics.areas |= part.areas
            metrics.overlap = RegionOverlap.joined([metrics.overlap, part.overlap])
        return metrics

    def add(self, anomaly_map: NDArray[Any], channels: Iterable[NDArray[Any]]) -> None:
        """Take one image into account. Images may differ in size.

        Args:
            anomaly_map: (height, width), finite. Absolute saturation areas count pixels
                of the annotation, so the map must not be smaller or larger.
            channels: Each (height, width), integers: 0, and inside a defect the value
                of its type. No channel for a normal image. What has the same value in
                the same channel is one region, connected or not. Channels may overlap.

        Raises:
            DatasetError: If the map is no map, a channel is no channel or of another
                shape, or a value has no saturation area.
            UndefinedMetricError: If a score is not finite.
        """
        image = f"image {self.overlap.n_images}"
        scores = as_anomaly_map(anomaly_map, f"the anomaly map of {image}")
        mask = np.zeros(scores.shape, bool)
        regions: list[tuple[Floats, float]] = []
        for index, channel in enumerate(channels):
            name = f"annotation channel {index} of {image}"
            check_same_shape(channel, name, scores)
            regions += self._annotated_regions(scores, np.asarray(channel), name)
            mask |= channel != 0
        self.overlap.add(
            scores[~mask],
            scores[mask],
            ImageRegions(
                np.concatenate([scores[:0, 0], *(region for region, _ in regions)]),
                np.array([region.size for region, _ in regions], np.int64),
                np.array([area for _, area in regions], np.float64),
            ),
        )

    def pixel_au_roc(self) -> float:
        """Give the share of pairs of a normal and a defect pixel in the right order.

        A tie counts half. A pixel is a defect pixel if it is one in any channel.

        Raises:
            UndefinedMetricError: If there is no defect pixel or no normal one.
        """
        return self.overlap.au_roc("pixel AU-ROC")

    def au_spro(self, fpr_limit: float = AU_SPRO_FPR_LIMIT) -> float:
        """Give the mean saturated share of each region, over the false positive rate.

        Args:
            fpr_limit: Right end of the integral, in (0, 1]; the area is divided by it.

        Raises:
            ConfigError: If `fpr_limit` is outside its range.
            UndefinedMetricError: If there is no region or no normal pixel.
        """
        return self.overlap.area("AU-sPRO", fpr_limit)

    def _annotated_regions(
        self, scores: Floats, channel: NDArray[Any], name: str
    ) -> Iterator[tuple[Floats, float]]:
        if channel.dtype.kind not in "ui":
            raise DatasetError(
                f"{name} must be integers, in each pixel 0 or the value of a defect "
                f"type, got {channel.dtype}"
            )
        for value in np.unique(channel[channel != 0]).tolist():
            if value not in self.areas:
                raise DatasetError(
                    f"{name} has the value {value}, but saturation areas are known for "
                    f"{', '.join(map(str, sorted(self.areas))) or 'no value'}; "
                    "use the defects_config.json of this category"
                )
            region = np.sort(scores[channel == value])[::-1]
            yield region, self.areas[value].of_defect(region.size)


def _connected_regions(scores: Floats, mask: NDArray[np.bool_]) -> ImageRegions:
    """The scores of each connected group of defect pixels."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return ImageRegions(scores[:0, 0], np.zeros(0, np.int64), np.zeros(0))
    rows_with_defects = slice(rows[0], rows[-1] + 1)
    mask = mask[rows_with_defects]
    region_of_pixel = _label(mask)[mask] - 1
    by_region = np.argsort(region_of_pixel, kind="stable")
    scores = scores[rows_with_defects][mask][by_region]
    sizes: Counts = np.bincount(region_of_pixel)
    for region in np.split(scores, np.cumsum(sizes)[:-1]):
        region[::-1].sort()
    return ImageRegions(scores, sizes, sizes.astype(np.float64))


def _label(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    try:
        # Only regions need SciPy; a line-side computer can import this without it.
        from scipy import ndimage  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "AU-PRO needs scipy, which is not installed; run: pip install scipy"
        ) from error
    labels: NDArray[np.int32] = ndimage.label(mask, _NEIGHBORHOOD)[0]
    return labels
