"""From RGB pixels to what the networks see: ImageNet mean and standard deviation."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Pixels = UInt8[Tensor, "batch height width 3"]
Images = Float[Tensor, "batch 3 height width"]

# Of ImageNet's training images, red, green, blue, on pixel values from 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize_images(pixels: Pixels) -> Images:
    """Give pixels the mean 0 and deviation 1 that ImageNet's pixels have.

    Args:
        pixels: RGB, 0 to 255.

    Returns:
        Float32 in the default memory layout.
    """
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device) * 255
    std = torch.tensor(IMAGENET_STD, device=pixels.device) * 255
    normalized = (pixels.float() - mean) / std
    return normalized.permute(0, 3, 1, 2).contiguous()
