"""The pixel metrics of a category's test images, as its annotation asks for.

With masks (MVTec AD, VisA, own folders) that is AU-PRO; with annotation channels and
saturation areas (MVTec LOCO) it is AU-sPRO, at the limits its authors report.
"""

from collections.abc import Callable
from collections.abc import Collection as Names
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets import (
    Category,
    Sample,
    read_annotation_channels,
    read_defect_mask,
)
from efficientad.datasets.annotations import read_saturation_areas
from efficientad.errors import DatasetError, UndefinedMetricError
from efficientad.evaluation.metrics import (
    ChannelMetrics,
    PixelMetrics,
)

MetricValues = dict[str, float]

# Bergmann et al., "Beyond Dents and Scratches", IJCV 2022; the first is their default.
_AU_SPRO_LIMITS: Final = {
    "au_spro": 0.05,
    "au_spro_0.1": 0.1,
    "au_spro_0.3": 0.3,
    "au_spro_1": 1.0,
}


class Measured(NamedTuple):
    """Metrics by their names: what has a value, and why the others have none."""

    values: MetricValues
    undefined: dict[str, str]


class PixelResults:
    """Maps and annotations by defect type; memory as `RegionOverlap` says.

    Args:
        category: Says which kind of annotation its images have.

    Raises:
        DatasetError: If its `defects_config.json` cannot be used.
    """

    def __init__(self, category: Category) -> None:
        config = category.defects_config
        self._areas = None if config is None else read_saturation_areas(config)
        self._masked: dict[str, PixelMetrics] = {}
        self._channeled: dict[str, ChannelMetrics] = {}

    def add(self, sample: Sample, anomaly_map: NDArray[np.float32]) -> None:
        """Take one image into account, at the size of its annotation.

        Args:
            sample: Normal, or with a mask.
            anomaly_map: (height, width) of the image.

        Raises:
            DatasetError: If the annotation cannot be used.
            ImageError: If it cannot be read.
        """
        height, width = anomaly_map.shape
        defect_type = sample.defect_type
        if self._areas is None:
            masked = self._masked.setdefault(defect_type, PixelMetrics())
            masked.add(anomaly_map, read_defect_mask(sample, height, width))
            return
        channels = read_annotation_channels(sample, height, width)
        channeled = self._channeled.setdefault(defect_type, ChannelMetrics(self._areas))
        try:
            channeled.add(anomaly_map, channels)
        except DatasetError as error:
            raise DatasetError(
                f"the masks in {sample.mask_path} do not fit: {error}"
            ) from error

    def metrics(self, defect_types: Names[str]) -> MetricValues:
        """Measure over all images of some defect types, `good` being one.

        Returns:
            By name; empty where no pixel of them is annotated.
        """
        return self.measured(defect_types).values

    def measured(self, defect_types: Names[str]) -> Measured:
        """Measure as `metrics`, and say why a metric has no value."""
        values, undefined = {}, {}
        for name, metric in self._metrics(defect_types).items():
            try:
                values[name] = metric()
            except UndefinedMetricError as error:
                # The metrics of whole images stand alone.
                undefined[name] = str(error)
        return Measured(values, undefined)

    def _metrics(self, defect_types: Names[str]) -> dict[str, Callable[[], float]]:
        if self._areas is None:
            masked = PixelMetrics.joined(
                part for kind, part in self._masked.items() if kind in defect_types
            )
            return {"pixel_au_roc": masked.pixel_au_roc, "au_pro": masked.au_pro}
        channeled = ChannelMetrics.joined(
            part for kind, part in self._channeled.items() if kind in defect_types
        )
        return {"pixel_au_roc": channeled.pixel_au_roc} | {
            name: partial(channeled.au_spro, limit)
            for name, limit in _AU_SPRO_LIMITS.items()
        }
