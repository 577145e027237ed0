"""The teacher's descriptors of the training images, computed once and kept.

A student that sees the same unchanged images again and again need not wait for the
teacher each time. Memory is bounded: of very many images only some are kept, spread
evenly over all, and those of the others are computed whenever they are asked for.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efficientad.method.inputs import normalize_images
from efficientad.method.networks import DESCRIPTOR_CHANNELS, PatchDescriptionNetwork
from efficientad.method.placement import GRID_CELLS
from efficientad.training.calibration import channel_statistics
from efficientad.training.normal_images import Pixels

MAX_KEPT: Final = 600
"""Images whose descriptors are kept: 2.4 MB each, 1.4 GB in all."""


class KeptDescriptors:
    """Normalized descriptors of training images, on call.

    Args:
        teacher: Frozen network on `device`.
        pixels: Training images, (n, 256, 256, 3).
        device: Where the teacher is, and where descriptors are given.
    """

    def __init__(
        self, teacher: PatchDescriptionNetwork, pixels: Pixels, device: torch.device
    ) -> None:
        n_kept = min(len(pixels), MAX_KEPT)
        chosen = [row * len(pixels) // n_kept for row in range(n_kept)]
        self._row_of = {index: row for row, index in enumerate(chosen)}
        self._teacher, self._pixels, self._device = teacher, pixels, device
        grid = (n_kept, GRID_CELLS, GRID_CELLS, DESCRIPTOR_CHANNELS)
        self._kept: NDArray[np.float16] = np.empty(grid, np.float16)

        def keep(first: int, descriptors: Tensor) -> None:
            nhwc = descriptors.permute(0, 2, 3, 1).half().cpu().numpy()
            self._kept[first : first + len(nhwc)] = nhwc

        # Deviation: the paper measures its channels on all training images.
        measured = pixels if n_kept == len(pixels) else pixels[chosen]
        self.statistics = channel_statistics(teacher, measured, device, keep)
        """Mean and deviation of the teacher's channels."""
        mean, std = (v.cpu().numpy() for v in self.statistics)
        for row in self._kept:
            row[:] = (row.astype(np.float32) - mean) / std

    def __len__(self) -> int:
        """Count the images."""
        return len(self._pixels)

    def of(self, index: int) -> Tensor:
        """Give the normalized descriptors of an image, (384, 56, 56)."""
        row = self._row_of.get(index)
        if row is not None:
            grid = torch.from_numpy(self._kept[row]).to(self._device)
            return grid.permute(2, 0, 1).float()
        return self._computed(index)

    @torch.no_grad()
    def _computed(self, index: int) -> Tensor:
        image = torch.from_numpy(self._pixels[index : index + 1]).to(self._device)
        descriptors: Tensor = self._teacher(normalize_images(image))[0]
        mean, std = (v.view(-1, 1, 1).to(self._device) for v in self.statistics)
        return (descriptors - mean) / std
