"""From annotated images to defect regions.

With a defect mask (MVTec AD, VisA) a region is a connected group of defect pixels. With
annotation channels (MVTec LOCO) a region is what was annotated as one defect: it need
not be connected, and it may count as found before its last pixel is found.

Sources: for AU-PRO, Bergmann et al., "The MVTec Anomaly Detection Dataset: A
Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", IJCV 2021; for
AU-sPRO, Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in
Unsupervised Anomaly Detection and Localization", IJCV 2022; and the evaluation scripts
published with both.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets.annotations import SaturationArea
from efficientad.errors import MissingDependencyError
from efficientad.evaluation.metric_inputs import Floats
from efficientad.evaluation.region_overlap import DefectPixels
from efficientad.images.rgb import Mask

# Pixels that touch at a corner are connected, as in MVTec's evaluation script.
_NEIGHBORHOOD = np.ones((3, 3), bool)


def masked_pixels(scores: Floats, defect_mask: Mask) -> DefectPixels:
    """Return the defect pixels of an image; a region is a connected group of them.

    Args:
        scores: The anomaly map, (height, width).
        defect_mask: (height, width).
    """
    rows = np.flatnonzero(defect_mask.any(axis=1))
    if not rows.size:
        return _defect_pixels(scores[:0, 0], [], [])
    # Labels are only needed in the rows that have defect pixels.
    band = slice(rows[0], rows[-1] + 1)
    mask = defect_mask[band]
    region_of_pixel = _label(mask)[mask]
    by_region = np.argsort(region_of_pixel, kind="stable")
    sizes = np.bincount(region_of_pixel)[1:]
    found = scores[band][mask][by_region]
    regions = np.split(found, np.cumsum(sizes)[:-1])
    return _defect_pixels(found, regions, sizes.tolist())


def separate(defect_mask: Mask) -> list[Mask]:
    """Return each connected group of defect pixels, (height, width)."""
    labels = _label(defect_mask)
    return [labels == index for index in range(1, int(labels.max()) + 1)]


def channel_pixels(
    scores: Floats,
    channels: Sequence[NDArray[Any]],
    areas: Mapping[int, SaturationArea],
) -> DefectPixels:
    """Return the defect pixels of an image; a region is a value in a channel.

    Args:
        scores: The anomaly map, (height, width).
        channels: Each (height, width), integers: 0, and inside a defect the
            value of its type.
        areas: The saturation area for each value.
    """
    regions: list[Floats] = []
    enough: list[float] = []
    for channel in channels:
        for value in np.unique(channel[channel != 0]).tolist():
            regions.append(scores[channel == value])
            enough.append(areas[value].of_defect(regions[-1].size))
    return _defect_pixels(scores[channels_mask(channels, scores)], regions, enough)


def channels_mask(channels: Iterable[NDArray[Any]], scores: Floats) -> Mask:
    """Return the pixels that are annotated in any channel."""
    mask: Mask = np.zeros(scores.shape, np.bool_)
    for channel in channels:
        mask |= channel != 0
    return mask


def _defect_pixels(
    scores: Floats, regions: Sequence[Floats], saturation_areas: Sequence[float]
) -> DefectPixels:
    descending = [np.sort(region)[::-1] for region in regions]
    return DefectPixels(
        scores,
        np.concatenate([scores[:0], *descending]),
        np.array([region.size for region in regions], np.int64),
        np.array(saturation_areas, np.float64),
    )


def _label(mask: Mask) -> NDArray[np.int32]:
    try:
        # Only regions need SciPy; a line-side computer can import this without it.
        from scipy import ndimage  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "AU-PRO needs scipy, which is not installed; run: pip install scipy"
        ) from error
    labels: NDArray[np.int32] = ndimage.label(mask, _NEIGHBORHOOD)[0]
    return labels
