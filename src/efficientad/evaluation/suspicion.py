"""Normal images that are unlike all other normal ones: perhaps misfiled defects.

Each image is left out in turn and compared with the others. A patch is described by the
teacher of a detector; it is as strange as its distance to the most similar patch of the
third most similar image, so that two misfiled pictures of one defect do not excuse each
other. An image is as strange as its strangest patch. It is suspicious if its distance
is far beyond what is usual among these images, measured by median and median deviation
of the logarithm, on which a few misfiled images have no influence.

What the detector was trained on does not matter: its student is not asked.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from efficientad.images.rgb import INPUT_SIZE, read_image, resize_image
from efficientad.method.detector import Detector
from efficientad.method.inputs import normalize_images

Patches = Float[Tensor, "images patches 384"]

MIN_IMAGES: Final = 10
"""Below, nobody can say what is usual."""

_DESCRIPTORS_IN_PATCH: Final = 4
_NEIGHBOR: Final = 3
_MAX_COMPARED: Final = 100
_LIMIT: Final = 5.0
# Makes the median deviation a standard deviation where values are normal.
_TO_STANDARD_DEVIATION: Final = 1.4826


def leave_out_scores(
    detector: Detector,
    paths: Sequence[Path],
    *,
    progress: Callable[[Sequence[Path]], Iterable[Path]] | None = None,
) -> NDArray[np.float64]:
    """Say how unlike all others each image is, given the others only.

    Args:
        detector: Its teacher describes the patches.
        paths: Normal images that can be read, at least `MIN_IMAGES`, none twice.
        progress: Is put around the paths to show how far it is.

    Returns:
        For each image the distance of its strangest patch, above 0.
    """
    described = [
        _patches(detector, path)
        for path in (paths if progress is None else progress(paths))
    ]
    patches = torch.stack(described)
    return np.array([_strangest(patches, index) for index in range(len(paths))])


def is_suspicious(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which scores are far beyond the usual ones."""
    logarithms = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    beyond = logarithms - np.median(logarithms)
    deviation = _TO_STANDARD_DEVIATION * np.median(np.abs(beyond))
    suspicious: NDArray[np.bool_] = beyond > _LIMIT * deviation
    return suspicious


@torch.inference_mode()
def _patches(detector: Detector, path: Path) -> Float[Tensor, "patches 384"]:
    image = resize_image(read_image(path), INPUT_SIZE, INPUT_SIZE)
    device = next(detector.teacher.parameters()).device
    pixels = torch.from_numpy(image)[None].to(device)
    descriptors = detector.teacher(normalize_images(pixels))
    pooled = functional.avg_pool2d(descriptors, _DESCRIPTORS_IN_PATCH)
    return pooled[0].flatten(1).T.contiguous()


@torch.inference_mode()
def _strangest(patches: Patches, index: int) -> float:
    n_images = len(patches)
    others = torch.tensor([i for i in range(n_images) if i != index])
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
