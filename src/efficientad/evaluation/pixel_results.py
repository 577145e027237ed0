"""The pixel metrics of a category's test images, by the kind of its annotation.

With masks (MVTec AD, VisA, own folders) that is AU-PRO; a region is a connected group
of defect pixels. With annotation channels and saturation areas (MVTec LOCO) it is
AU-sPRO, at the limits that its authors report; a region is what was annotated as one
defect: it need not be connected, and may count as found before its last pixel is found.

Sources: for AU-PRO, Bergmann et al., "The MVTec Anomaly Detection Dataset: A
Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", IJCV 2021; for
AU-sPRO, Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in
Unsupervised Anomaly Detection and Localization", IJCV 2022; and the evaluation scripts
published with both.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efficientad.datasets import (
    NORMAL,
    Category,
    Sample,
    read_annotation_channels,
    read_defect_mask,
)
from efficientad.datasets.annotations import SaturationArea, read_saturation_areas
from efficientad.errors import DatasetError, UndefinedMetricError
from efficientad.evaluation.metrics import Floats
from efficientad.evaluation.region_overlap import (
    DefectPixels,
    RegionOverlap,
    count_normal,
)
from efficientad.images.components import components
from efficientad.images.rgb import Labels, Mask
from efficientad.inspection.prediction import Prediction

MetricValues: TypeAlias = dict[str, float]
MapOf: TypeAlias = Callable[[Sample], NDArray[np.float32]]
"""Returns the anomaly map of a test image at its own size, (height, width), finite."""

AU_PRO_FPR_LIMIT: Final = 0.3  # Bergmann et al. 2021, and what EfficientAD reports

# Bergmann et al., "Beyond Dents and Scratches", IJCV 2022; the first is their default.
_AU_SPRO_LIMITS: Final = {
    "au_spro": 0.05,
    "au_spro_0.1": 0.1,
    "au_spro_0.3": 0.3,
    "au_spro_1": 1.0,
}


# Pixels that touch at a corner are connected, as in MVTec's evaluation script.
_NEIGHBORHOOD = np.ones((3, 3), bool)


class Measured(NamedTuple):
    """Metrics by name: the values, and the reason for each one without a value."""

    values: MetricValues
    undefined: dict[str, str]


class PixelResults(NamedTuple):
    """Pixel metrics over all defects, and for each type against all normal images."""

    overall: Measured
    by_defect_type: Mapping[str, Measured]


class RegionCounts(NamedTuple):
    """Counts of regions over the test images whose defects are annotated."""

    n_found: int
    """Annotated regions that share a pixel with a predicted one."""
    n_missed: int
    """Annotated regions that share none."""
    n_false: int
    """Predicted regions that share no pixel with an annotated one."""

    def __str__(self) -> str:
        n = self.n_found + self.n_missed
        return (
            f"{self.n_found} of {n} annotated regions found at the threshold, "
            f"{self.n_false} false ones"
        )


class Annotations:
    """Reads the annotations of a category's images, masks or channels.

    Raises:
        DatasetError: If its `defects_config.json`, or an annotation, cannot be used.
        ImageError: If an annotation cannot be read.
    """

    def __init__(self, category: Category) -> None:
        config = category.defects_config
        self._areas = None if config is None else read_saturation_areas(config)

    def regions(self, sample: Sample, height: int, width: int) -> list[Mask]:
        """Return the annotated regions of a defective image, each (height, width)."""
        return [
            channel == value
            for channel in self._channels(sample, height, width)
            for value in np.unique(channel[channel != 0])
        ]

    def defect_pixels(
        self, sample: Sample, anomaly_map: NDArray[np.float32]
    ) -> DefectPixels:
        """Return the regions of a defective image with their scores."""
        channels, areas = self._channels(sample, *anomaly_map.shape), self._areas
        if areas is not None:
            _require_known_values(sample, channels, areas)
        return region_pixels(anomaly_map, channels, areas)

    def normal_scores(self, sample: Sample, anomaly_map: NDArray[np.float32]) -> Floats:
        """Return the scores of the pixels of an image that are not annotated."""
        channels = self._channels(sample, *anomaly_map.shape)
        return anomaly_map[~channels_mask(channels, anomaly_map)]

    def _channels(self, sample: Sample, height: int, width: int) -> list[Labels]:
        """Return the annotation channels; a mask is one that numbers its regions."""
        if self._areas is None:
            return [numbered_regions(read_defect_mask(sample, height, width))]
        return read_annotation_channels(sample, height, width)

    def measured(self, overlap: RegionOverlap) -> Measured:
        """Return the metrics that suit the annotation."""
        name, limits = "AU-PRO", {"au_pro": AU_PRO_FPR_LIMIT}
        if self._areas is not None:
            name, limits = "AU-sPRO", _AU_SPRO_LIMITS
        values: MetricValues = {}
        undefined: dict[str, str] = {}
        # The metrics of whole images do not depend on these.
        try:
            values["pixel_au_roc"] = overlap.au_roc("pixel AU-ROC")
        except UndefinedMetricError as error:
            undefined["pixel_au_roc"] = str(error)
        for key, limit in limits.items():
            try:
                values[key] = overlap.area(name, limit)
            except UndefinedMetricError as error:
                undefined[key] = str(error)
        return Measured(values, undefined)


def _require_known_values(
    sample: Sample, channels: Sequence[Labels], known: Collection[int]
) -> None:
    for index, channel in enumerate(channels):
        unknown = set(np.unique(channel).tolist()) - {0, *known}
        if unknown:
            raise DatasetError(
                f"the masks in {sample.mask_path} do not fit: annotation channel "
                f"{index} of {sample.path} has the value {min(unknown)}, but "
                "saturation areas are known for "
                f"{', '.join(map(str, sorted(known))) or 'no value'}; use "
                "the defects_config.json of this category"
            )


def measure_pixels(category: Category, map_of: MapOf) -> PixelResults:
    """Return the pixel metrics of a category's test images.

    Images without an annotation are left out. The maps of annotated defects are asked
    for twice, those of normal images once.

    Raises:
        DatasetError: If an annotation or `defects_config.json` cannot be used.
        ImageError: If an annotation cannot be read.
    """
    annotations = Annotations(category)
    samples: dict[str, list[Sample]] = {NORMAL: []}
    for sample in category.test:
        of_type = samples.setdefault(sample.defect_type, [])
        if not sample.is_defect or sample.mask_path is not None:
            of_type.append(sample)
    defects = {
        kind: [annotations.defect_pixels(sample, map_of(sample)) for sample in chosen]
        for kind, chosen in samples.items()
        if kind != NORMAL
    }
    overall = RegionOverlap(image for images in defects.values() for image in images)
    by_type = {kind: RegionOverlap(images) for kind, images in defects.items()}

    def normal(chosen: Sequence[Sample]) -> Iterator[Floats]:
        return (annotations.normal_scores(sample, map_of(sample)) for sample in chosen)

    count_normal([overall, *by_type.values()], normal(samples[NORMAL]))
    for kind, overlap in by_type.items():
        count_normal([overall, overlap], normal(samples[kind]))
    return PixelResults(
        annotations.measured(overall),
        {kind: annotations.measured(overlap) for kind, overlap in by_type.items()},
    )


def count_regions(
    predicted: Mapping[Sample, Prediction], annotations: Annotations
) -> RegionCounts:
    """Return how many regions of test images are found, missed and false.

    Raises:
        DatasetError: If an annotation cannot be used.
        ImageError: If it cannot be read.
    """
    counts = [
        _region_counts(sample, prediction, annotations)
        for sample, prediction in predicted.items()
        if not sample.is_defect or sample.mask_path is not None
    ]
    return RegionCounts(*np.sum([(0, 0, 0), *counts], axis=0).tolist())


def _region_counts(
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


def numbered_regions(defect_mask: Mask) -> Labels:
    """Return a mask whose values number its connected groups of pixels, from 1."""
    labels: Labels = ndimage.label(defect_mask, _NEIGHBORHOOD)[0]
    return labels


def region_pixels(
    scores: Floats,
    channels: Sequence[NDArray[Any]],
    areas: Mapping[int, SaturationArea] | None = None,
) -> DefectPixels:
    """Return the defect pixels of an anomaly map; a region is a value in a channel.

    Channels have its shape, and are 0 outside of regions. Each value has a saturation
    area; without areas, it is the whole region.
    """
    found = [scores[:0, 0]]
    sizes: list[int] = []
    enough: list[float] = []
    for channel in channels:
        inside = channel != 0
        values, of_region = channel[inside], scores[inside]
        found.append(of_region[np.lexsort((-of_region, values))])
        of_channel, counts = np.unique(values, return_counts=True)
        sizes += counts.tolist()
        enough += [
            n if areas is None else areas[value].of_defect(n)
            for value, n in zip(of_channel.tolist(), counts.tolist(), strict=True)
        ]
    return DefectPixels(
        scores[channels_mask(channels, scores)],
        np.concatenate(found),
        np.array(sizes, np.int64),
        np.array(enough, np.float64),
    )


def channels_mask(channels: Iterable[NDArray[Any]], scores: Floats) -> Mask:
    """Return the pixels that are annotated in any channel."""
    mask: Mask = np.zeros(scores.shape, np.bool_)
    for channel in channels:
        mask |= channel != 0
    return mask
