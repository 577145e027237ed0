"""From RGB pixels to what the networks see: ImageNet mean and standard deviation."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from efficientad.method.sizes import IMAGENET_MEAN, IMAGENET_STD

Pixels = UInt8[Tensor, "batch height width 3"]
Images = Float[Tensor, "batch 3 height width"]


def normalize_images(pixels: Pixels) -> Images:
    """Return pixels, 0 to 255, normalized by the mean and deviation of ImageNet's.

    The images have the default memory layout.
    """
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device) * 255
    std = torch.tensor(IMAGENET_STD, device=pixels.device) * 255
    normalized = (pixels.float() - mean) / std
    return normalized.permute(0, 3, 1, 2).contiguous()
