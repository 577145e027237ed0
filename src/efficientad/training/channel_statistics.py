"""Mean and deviation of the teacher's channels over the training images."""

from collections.abc import Callable, Iterator
from contextlib import closing

import torch
from torch import Tensor

from efficientad.method.detector import ChannelStatistics
from efficientad.method.inputs import normalize_images
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.training.channel_moments import ChannelMoments
from efficientad.training.normal_images import Pixels
from efficientad.training.progress import Progress

_BATCH_SIZE = 4


def batches(pixels: Pixels, device: torch.device) -> Iterator[Tensor]:
    """Yield normalized images in small batches, in order.

    Args:
        pixels: RGB images, (n, 256, 256, 3).
        device: Device of the batches.
    """
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

    It takes one pass in batches, so memory is constant.

    Args:
        teacher: Frozen network on `device`.
        pixels: Training images, (n, 256, 256, 3).
        device: Device of the computation.
        on_descriptors: Function that is called for each batch with the index of its
            first image and its raw descriptors.
    """
    n_images = 0
    moments = ChannelMoments()
    with closing(Progress(len(pixels), "image", task="teacher")) as progress:
        for images in batches(pixels, device):
            descriptors = teacher(images)
            if on_descriptors is not None:
                on_descriptors(n_images, descriptors)
            n_images += len(images)
            moments.add(descriptors.transpose(0, 1).flatten(1).T)
            progress.update(n_images)
    mean, std = (values.to(device) for values in moments.mean_and_std())
    return ChannelStatistics(mean, std.clamp(min=torch.finfo(torch.float32).eps))
