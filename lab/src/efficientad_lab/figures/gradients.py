"""The receptive field of one descriptor: its gradient (paper, Figure 3)."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from efficientad.distillation.source_networks import SourceFeatures, open_source_network

Map = NDArray[np.floating[Any]]
Network = Callable[[Tensor], Tensor]


def gradient_map(network: Network, images: Tensor) -> Map:
    """Return how much each pixel moves the central descriptor, summed over colors.

    Args:
        network: Network from (1, 3, height, width) to a grid of descriptors.
        images: One image. In double precision the plain convolution is used, so exact
            zeros stay zeros.

    Returns:
        Array of non-negative values, (height, width).
    """
    pixels = images.clone().requires_grad_()
    grid = network(pixels)
    row, column = (n // 2 for n in grid.shape[-2:])
    # A random direction, because channels would cancel one another in a plain sum.
    direction = torch.randn(grid.shape[1], generator=torch.Generator().manual_seed(0))
    direction = direction.to(grid)
    (grid[0, :, row, column] @ direction).backward()  # type: ignore[no-untyped-call]
    assert pixels.grad is not None
    gradient: Map = pixels.grad[0].abs().sum(0).numpy()
    return gradient


def box_of(gradient: Map) -> tuple[int, int]:
    """Return height and width of the smallest box around all non-zero values."""
    rows, columns = np.nonzero(gradient)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def open_source(name_or_file: str | Path) -> Network:
    """Return a source network's reduced features as a differentiable function.

    Raises:
        ModelFileError: If it cannot be read.
    """
    features = SourceFeatures(open_source_network(name_or_file).eval())
    # Without the `no_grad` of distillation.
    forward: Any = inspect.unwrap(SourceFeatures.forward)
    return lambda images: forward(features, images)


def enlarged(images: Tensor) -> Tensor:
    """Return images at twice their size, as a source network sees them."""
    return functional.interpolate(images, scale_factor=2, mode="bilinear")
