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

from efficientad.method.detector import ChannelStatistics
from efficientad.method.inputs import normalize_images
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.method.placement import GRID_CELLS
from efficientad.training.calibration import channel_statistics
from efficientad.training.normal_images import Pixels
from efficientad.training.pretraining_images import PretrainingImages
from efficientad.training.principal_axes import (
    Axes,
    Vectors,
    covariance,
    principal_axes,
)

MAX_KEPT: Final = 600
"""Images whose descriptors are kept: 2.4 MB each, 1.4 GB in all."""

_N_NATURAL: Final = 24


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
        grid = (n_kept, GRID_CELLS, GRID_CELLS, teacher.n_channels)
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
        """Give the normalized descriptors of an image, (channels, 56, 56)."""
        row = self._row_of.get(index)
        if row is not None:
            grid = torch.from_numpy(self._kept[row]).to(self._device)
            return grid.permute(2, 0, 1).float()
        return self._computed(index)

    def _computed(self, index: int) -> Tensor:
        return self._described(self._pixels[index])

    def along_axes(
        self,
        n_axes: int,
        natural: PretrainingImages | None,
        rng: np.random.Generator,
    ) -> tuple[Axes, PatchDescriptionNetwork]:
        """Keep descriptors along their principal axes only.

        Args:
            n_axes: How many.
            natural: Images whose descriptors count as well, or None.
            rng: Draws from them.

        Returns:
            The axes, and the teacher that gives such descriptors, normalized already.
        """
        own = (torch.from_numpy(row).flatten(0, 1).float() for row in self._kept)
        covariances = [covariance(own)]
        if natural is not None:
            drawn = (natural.draw(rng) for _ in range(_N_NATURAL))
            covariances.append(covariance(map(self._vectors, drawn)))
        axes = principal_axes(covariances, n_axes).contiguous()
        projected = axes.T.numpy()
        grid = (*self._kept.shape[:3], n_axes)
        kept: NDArray[np.float16] = np.empty(grid, np.float16)
        for row, descriptors in zip(kept, self._kept, strict=True):
            row[:] = descriptors.astype(np.float32) @ projected
        self._kept = kept
        mean, std = (v.to(self._device) for v in self.statistics)
        self._teacher = self._teacher.projected(axes.to(self._device) / std, mean)
        self.statistics = ChannelStatistics(
            axes.new_zeros(n_axes), axes.new_ones(n_axes)
        )
        return axes, self._teacher

    def _vectors(self, pixels: Pixels) -> Vectors:
        return self._described(pixels).flatten(1).T.cpu()

    @torch.no_grad()
    def _described(self, pixels: Pixels) -> Tensor:
        """Give the normalized descriptors of pixels, (256, 256, 3), computed now."""
        image = torch.from_numpy(pixels)[None].to(self._device)
        descriptors: Tensor = self._teacher(normalize_images(image))[0]
        mean, std = (v.view(-1, 1, 1).to(self._device) for v in self.statistics)
        return (descriptors - mean) / std
