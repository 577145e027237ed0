"""Mean and standard deviation of channels, such as the teacher's on training images."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from efficientad.calibration.normal_images import Pixels
from efficientad.method.detector import ChannelStatistics
from efficientad.method.inputs import Images, normalize_images
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.progress import with_progress

_BATCH_SIZE = 4


class ChannelMoments:
    """Moments of more vectors than fit into memory, in double precision.

    Each batch is centered before its deviations are squared (Welford), so nothing
    cancels.
    """

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._scatter = torch.zeros((), dtype=torch.float64)

    def add(self, vectors: Float[Tensor, "vectors channels"]) -> None:
        """Add vectors, on any device."""
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
        """Return both, (channels,), in single precision, on the CPU."""
        return self._mean.float(), (self._scatter / self._n).sqrt().float()


def batches(pixels: Pixels, device: torch.device) -> Iterator[Images]:
    """Return normalized images in small batches on a device, in order."""
    for start in range(0, len(pixels), _BATCH_SIZE):
        batch = torch.from_numpy(pixels[start : start + _BATCH_SIZE])
        yield normalize_images(batch.to(device))


@torch.no_grad()
def channel_statistics(
    teacher: PatchDescriptionNetwork,
    pixels: Pixels,
    device: torch.device,
    on_descriptors: Callable[[int, Tensor], None] | None = None,
) -> ChannelStatistics:
    """Return the statistics of the teacher's channels over the training images.

    Args:
        teacher: Frozen network on `device`.
        pixels: Training images, (n, 256, 256, 3).
        device: Device of the teacher.
        on_descriptors: Function that is called with the index of a batch's first image
            and its raw descriptors.
    """
    n_images = 0
    moments = ChannelMoments()
    for images in with_progress(batches(pixels, device), len(pixels), "teacher"):
        descriptors = teacher(images)
        if on_descriptors is not None:
            on_descriptors(n_images, descriptors)
        n_images += len(images)
        moments.add(descriptors.transpose(0, 1).flatten(1).T)
    mean, std = (values.to(device) for values in moments.mean_and_std())
    return ChannelStatistics(mean, std.clamp(min=torch.finfo(torch.float32).eps))
