"""Cache of the teacher's descriptors of the training images.

A student that sees the same unchanged images again and again need not wait for the
teacher each time. Memory is bounded: of very many images only some are cached, spread
evenly over all, and the descriptors of the others are computed on demand.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efficientad.calibration.normal_images import Pixels
from efficientad.method.inputs import normalize_images
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.method.sizes import DESCRIPTOR_CHANNELS, GRID_SIZE
from efficientad.training.channel_statistics import channel_statistics

MAX_CACHED: Final = 600
"""Images whose descriptors are cached: 2.4 MB each, 1.4 GB in all."""


class DescriptorCache:
    """Normalized descriptors of training images, by index, on the teacher's device."""

    def __init__(
        self, teacher: PatchDescriptionNetwork, pixels: Pixels, device: torch.device
    ) -> None:
        n_cached = min(len(pixels), MAX_CACHED)
        chosen = [row * len(pixels) // n_cached for row in range(n_cached)]
        self._row_of = {index: row for row, index in enumerate(chosen)}
        self._teacher, self._pixels, self._device = teacher, pixels, device
        shape = (n_cached, GRID_SIZE, GRID_SIZE, DESCRIPTOR_CHANNELS)
        self._grids: NDArray[np.float16] = np.empty(shape, np.float16)

        def store(first: int, descriptors: Tensor) -> None:
            nhwc = descriptors.permute(0, 2, 3, 1).half().cpu().numpy()
            self._grids[first : first + len(nhwc)] = nhwc

        # Deviation: the paper measures its channels on all training images.
        measured = pixels if n_cached == len(pixels) else pixels[chosen]
        self.statistics = channel_statistics(teacher, measured, device, store)
        """Mean and deviation of the teacher's channels."""
        mean, std = (v.cpu().numpy() for v in self.statistics)
        for grid in self._grids:
            grid[:] = (grid.astype(np.float32) - mean) / std

    @torch.no_grad()
    def __getitem__(self, index: int) -> Tensor:
        """Return the normalized descriptors of an image, (384, 56, 56)."""
        row = self._row_of.get(index)
        if row is not None:
            grid = torch.from_numpy(self._grids[row]).to(self._device)
            return grid.permute(2, 0, 1).float()
        image = torch.from_numpy(self._pixels[index : index + 1]).to(self._device)
        descriptors: Tensor = self._teacher(normalize_images(image))[0]
        mean, std = (v.view(-1, 1, 1).to(self._device) for v in self.statistics)
        return (descriptors - mean) / std
