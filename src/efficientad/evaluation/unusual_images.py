"""Normal images that are unlike all other normal ones: possibly misfiled defects.

Each image is left out in turn and compared with the others. The teacher of a detector
describes the patches. The distance of a patch is the distance to the most similar patch
of the third most similar image, so that two misfiled pictures of one defect do not
excuse each other. The distance of an image is that of its most distant patch. An image
is unusual if its distance is far above those of the other images, measured by median
and median deviation of the logarithm, which a few misfiled images do not influence.

The student is not used, so it does not matter which images the detector was trained on.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from efficientad.images.rgb import INPUT_SIZE, RGBImage, resize_image
from efficientad.kernels.winograd import FAST
from efficientad.method.detector import Detector
from efficientad.method.inputs import normalize_images

Patches = Float[Tensor, "images patches 384"]

MIN_IMAGES: Final = 10
"""With fewer images the usual distance is unknown."""

_DESCRIPTORS_IN_PATCH: Final = 4
_NEIGHBOR: Final = 3
_MAX_COMPARED: Final = 100
_LIMIT: Final = 5.0
# Makes the median deviation a standard deviation where values are normal.
_TO_STANDARD_DEVIATION: Final = 1.4826


def leave_one_out_distances(
    detector: Detector, images: Iterable[RGBImage]
) -> NDArray[np.float64]:
    """Return the distance of each image, of at least `MIN_IMAGES`, from all others."""
    detector.teacher.operations = FAST
    patches = torch.stack([_patches(detector, image) for image in images])
    return np.array([_distance(patches, index) for index in range(len(patches))])


def is_unusual(distances: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which distances are far above the usual ones."""
    logarithms = np.log(np.maximum(distances, np.finfo(np.float32).tiny))
    above = logarithms - np.median(logarithms)
    deviation = _TO_STANDARD_DEVIATION * np.median(np.abs(above))
    unusual: NDArray[np.bool_] = above > _LIMIT * deviation
    return unusual


@torch.inference_mode()
def _patches(detector: Detector, image: RGBImage) -> Float[Tensor, "patches 384"]:
    small = resize_image(image, INPUT_SIZE, INPUT_SIZE)
    device = next(detector.teacher.parameters()).device
    pixels = torch.from_numpy(small)[None].to(device)
    descriptors = detector.teacher(normalize_images(pixels))
    pooled = functional.avg_pool2d(descriptors, _DESCRIPTORS_IN_PATCH)
    return pooled[0].flatten(1).T.contiguous()


@torch.inference_mode()
def _distance(patches: Patches, index: int) -> float:
    others = torch.tensor([i for i in range(len(patches)) if i != index])
    if len(others) > _MAX_COMPARED:
        # Evenly spread, and never the image itself.
        chosen = torch.linspace(0, len(others) - 1, _MAX_COMPARED).round().long()
        others = others[chosen]
    distances = torch.cdist(
        patches[index][None],
        patches[others].flatten(0, 1)[None],
        compute_mode="use_mm_for_euclid_dist",
    )[0]
    to_images = distances.view(len(distances), len(others), -1).amin(2)
    nearest = to_images.kthvalue(min(_NEIGHBOR, len(others)), dim=1).values
    return float(nearest.max())
