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
from efficientad.evaluation.metrics import Floats
from efficientad.evaluation.region_overlap import DefectPixels
from efficientad.images.rgb import Labels, Mask

# Pixels that touch at a corner are connected, as in MVTec's evaluation script.
_NEIGHBORHOOD = np.ones((3, 3), bool)


def numbered_regions(defect_mask: Mask) -> Labels:
    """Return a mask whose values number its connected groups of pixels, from 1.

    Raises:
        MissingDependencyError: If SciPy is not installed.
    """
    try:
        # Only regions need SciPy; a line-side computer can import this without it.
        from scipy import ndimage  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "AU-PRO needs scipy, which is not installed; run: pip install scipy"
        ) from error
    labels: Labels = ndimage.label(defect_mask, _NEIGHBORHOOD)[0]
    return labels


def region_pixels(
    scores: Floats,
    channels: Sequence[NDArray[Any]],
    areas: Mapping[int, SaturationArea] | None = None,
) -> DefectPixels:
    """Return the defect pixels of an image; a region is a value in a channel.

    Args:
        scores: The anomaly map, (height, width).
        channels: Each (height, width), integers: 0, and inside a region its value.
        areas: Saturation area of each value. None: the whole region.
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
