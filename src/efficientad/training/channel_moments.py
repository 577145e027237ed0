"""Mean and standard deviation of channels over more vectors than fit into memory."""

import torch
from jaxtyping import Float
from torch import Tensor

Vectors = Float[Tensor, "vectors channels"]


class ChannelMoments:
    """Mean and standard deviation of each channel, batch by batch, in double precision.

    Each batch is centred before its deviations are squared (Welford), so nothing
    cancels.
    """

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._scatter = torch.zeros((), dtype=torch.float64)

    def add(self, vectors: Vectors) -> None:
        """Take in vectors, on any device."""
        n_new, exact = len(vectors), vectors.double()
        own = exact.mean(0)
        own_scatter = (exact - own).square().sum(0)
        step = own.cpu() - self._mean
        share = n_new / (self._n + n_new)
        scatter = own_scatter.cpu() + step.square() * self._n * share
        self._scatter = self._scatter + scatter
        self._mean = self._mean + step * share
        self._n += n_new

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Give both, (channels,), in single precision, on the CPU."""
        return self._mean.float(), (self._scatter / self._n).sqrt().float()
