"""A vector-quantized autoencoder with two levels, the first part of DSR.

An image becomes a grid of vectors at stride 8 and one at stride 4, each replaced by the
nearest of a codebook. The codebooks follow moving means of the vectors that are
replaced by each entry, so that they take no gradients.

    loss  (image - decoded image)^2 + 0.25 |vector - its entry|^2, at both levels
"""

from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad_lab.methods.stages import Grid

N_CHANNELS: Final = 128
N_ENTRIES: Final = 4096
_DECAY: Final = 0.99
_COMMITMENT: Final = 0.25
_SMALLEST_COUNT: Final = 0.1
_N_ROWS: Final = 4096  # of distances that are computed at once

Codes = Float[Tensor, "_ 128"]


class Levels(NamedTuple):
    """Vectors of both levels."""

    low: Grid
    """Stride 8."""
    high: Grid
    """Stride 4."""


class Codebook(nn.Module):
    """Entries that follow the vectors they replace."""

    entries: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, n_entries: int) -> None:
        super().__init__()
        entries = torch.randn(n_entries, N_CHANNELS)
        self.register_buffer("entries", entries)
        self.register_buffer("counts", torch.zeros(n_entries))
        self.register_buffer("sums", torch.zeros(n_entries, N_CHANNELS))

    def nearest(self, vectors: Codes) -> Tensor:
        """Return the index of the entry that is nearest to each vector."""
        squares = self.entries.square().sum(1)
        parts = torch.split(vectors, _N_ROWS)
        found = [
            torch.addmm(squares, part, self.entries.T, alpha=-2).argmin(1)
            for part in parts
        ]
        return torch.cat(found)

    def quantized(self, grid: Grid) -> Grid:
        """Return a grid with each vector replaced; gradients pass as they are."""
        with torch.no_grad():
            chosen = self.entries[self.nearest(_vectors(grid))]
        return grid + (_laid_out(chosen, grid) - grid).detach()

    @torch.no_grad()
    def follow(self, grid: Grid) -> None:
        """Move the entries to the vectors of a batch.

        Entries begin at vectors of the first batch. Later, one that replaces none goes
        to a vector of the batch: an entry far from all would never be used.
        """
        vectors = _vectors(grid)
        spread = torch.linspace(0, len(vectors) - 1, len(self.entries)).long()
        if not self.counts.any():
            self.entries.copy_(vectors[spread])
            self.counts.fill_(1.0)
            self.sums.copy_(self.entries)
        index = self.nearest(vectors)
        counts = torch.bincount(index, minlength=len(self.entries)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, index, vectors)
        self.counts.mul_(_DECAY).add_(counts, alpha=1 - _DECAY)
        self.sums.mul_(_DECAY).add_(sums, alpha=1 - _DECAY)
        is_unused = self.counts < _SMALLEST_COUNT
        self.counts[is_unused] = 1.0
        self.sums[is_unused] = vectors[spread[is_unused]]
        self.entries.copy_(self.sums / self.counts[:, None])


class QuantizedAutoencoder(nn.Module):
    """Encoders of two levels, their codebooks and the decoder.

    Args:
        n_entries: Entries of each codebook.
    """

    def __init__(self, n_entries: int = N_ENTRIES) -> None:
        super().__init__()
        n = N_CHANNELS
        self.to_high = nn.Sequential(
            nn.Conv2d(3, n // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(n // 2, n, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(n, n, 3, padding=1),
            *(_Residual() for _ in range(2)),
        )
        self.to_low = nn.Sequential(
            nn.Conv2d(n, n, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(n, n, 3, padding=1),
            *(_Residual() for _ in range(2)),
        )
        self.enlarge = nn.ConvTranspose2d(n, n, 4, stride=2, padding=1)
        self.join = nn.Conv2d(2 * n, n, 1)
        self.low, self.high = Codebook(n_entries), Codebook(n_entries)
        self.decoder = decoder()

    def forward(self, images: Grid) -> Levels:
        """Return the quantized vectors of both levels; values of images in [0, 1]."""
        return self._quantized(*self._encoded(images))

    def decoded(self, levels: Levels) -> Grid:
        """Return the images of quantized vectors."""
        images: Tensor = self.decoder(self.joined(levels))
        return images

    def joined(self, levels: Levels) -> Grid:
        """Return both levels at stride 4, 256 channels."""
        return torch.cat([self.enlarge(levels.low), levels.high], dim=1)

    def loss(self, images: Grid) -> Tensor:
        """Return the loss of a batch, and let the codebooks follow it."""
        low, finer = self._encoded(images)
        self.low.follow(low)
        quantized_low = self.low.quantized(low)
        high = self._high(quantized_low, finer)
        self.high.follow(high)
        quantized = Levels(quantized_low, self.high.quantized(high))
        error = functional.mse_loss(self.decoded(quantized), images)
        committed = [
            functional.mse_loss(vectors, replaced.detach())
            for vectors, replaced in zip((low, high), quantized, strict=True)
        ]
        return error + _COMMITMENT * torch.stack(committed).sum()

    def _encoded(self, images: Grid) -> tuple[Grid, Grid]:
        finer = self.to_high(images)
        return self.to_low(functional.relu(finer)), finer

    def _high(self, quantized_low: Grid, finer: Grid) -> Grid:
        high: Tensor = self.join(torch.cat([self.enlarge(quantized_low), finer], 1))
        return high

    def _quantized(self, low: Grid, finer: Grid) -> Levels:
        quantized_low = self.low.quantized(low)
        high = self.high.quantized(self._high(quantized_low, finer))
        return Levels(quantized_low, high)


def decoder() -> nn.Sequential:
    """Return a new decoder of joined levels, 256 channels at stride 4, to images."""
    n = N_CHANNELS
    return nn.Sequential(
        nn.Conv2d(2 * n, n, 3, padding=1),
        *(_Residual() for _ in range(2)),
        nn.ReLU(),
        nn.ConvTranspose2d(n, n // 2, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(n // 2, 3, 4, stride=2, padding=1),
    )


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        n = N_CHANNELS
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(n, n // 2, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(n // 2, n, 1, bias=False),
        )

    def forward(self, features: Grid) -> Grid:
        """Return the features and what the layers add."""
        added: Tensor = self.layers(features)
        return features + added


def _vectors(grid: Grid) -> Codes:
    return grid.movedim(1, -1).reshape(-1, grid.shape[1])


def _laid_out(vectors: Codes, grid: Grid) -> Grid:
    n, channels, rows, columns = grid.shape
    return vectors.view(n, rows, columns, channels).movedim(-1, 1)
