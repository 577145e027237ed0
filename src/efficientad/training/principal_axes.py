"""Fewer channels for the same maps: a trained detector along its principal axes.

A map is a sum of squares over the channels, so turning the differences in it changes
nothing. Along the axes of their largest squares a few channels hold most of that sum;
the others can be left out of the last layer of every network. Deviation: the paper
keeps all 384 channels.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from efficientad.method.detector import (
    Channels,
    ChannelStatistics,
    Descriptors,
    Detector,
)
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.natural_images.pictures import (
    PretrainingImages,
    open_pretraining_images,
)
from efficientad.training.channel_statistics import batches
from efficientad.training.normal_images import Pixels

Moments = Float[Tensor, "channels channels"]
Axes = Float[Tensor, "axes channels"]
Batch = Float[Tensor, "_ 3 256 256"]
Network = TypeVar("Network", PatchDescriptionNetwork, Autoencoder)

_N_IMAGES: Final = 24  # of each kind
_DRAW: Final = (0, 1)  # beside the seed; a step's own draws have one number there


def images_for_axes(
    normal: Pixels,
    natural: PretrainingImages | None,
    seed: int,
    device: torch.device,
) -> Iterator[Iterable[Batch]]:
    """Give some images of both kinds, as `along_axes` takes them.

    Args:
        normal: Training images, (n, 256, 256, 3). Held-out ones must not be among them.
        natural: Images that stand for anything else. None: drawn by code.
        seed: Of the draw from them.
        device: Where the images are needed.
    """
    rng = np.random.default_rng((seed, *_DRAW))
    natural = natural or open_pretraining_images(None)
    drawn = np.stack([natural.draw(rng) for _ in range(_N_IMAGES)])
    spread = normal[:: -(-len(normal) // _N_IMAGES)]
    return (batches(pixels, device) for pixels in (spread, drawn))


def moments(descriptors: Descriptors) -> Moments:
    """Give the sum of the outer products of vectors, in double precision."""
    vectors = descriptors.transpose(0, 1).flatten(1)
    return (vectors @ vectors.T).double()


def principal_axes(kinds: Iterable[Moments], n_axes: int) -> Axes:
    """Give the directions along which vectors have most of their squares.

    Args:
        kinds: Of several kinds of vectors, each of which counts the same, whatever its
            scale.
        n_axes: Rows of the result.

    Returns:
        Orthonormal rows, the axis of the largest squares first.
    """
    # Images that are all alike may differ nowhere.
    both = sum(each / each.trace().clamp(min=1e-12) for each in kinds)
    assert isinstance(both, Tensor)
    _, vectors = torch.linalg.eigh(both)
    axes: Tensor = vectors.flip(1).T[:n_axes].float()
    return axes


@torch.no_grad()
def along_axes(
    detector: Detector,
    kinds: Iterable[Iterable[Batch]],
    n_local: int,
    n_global: int,
) -> Detector:
    """Give a detector of fewer channels whose raw maps are nearly the same.

    Args:
        detector: Trained, in all channels. It stays as it is.
        kinds: Of normal and of natural images, say: what the networks differ by on the
            latter stands for defects. Batches, normalized; each kind counts the same.
        n_local: Channels of the local map.
        n_global: Channels of the global map.

    Returns:
        Not calibrated, in evaluation mode, without gradients.
    """
    detector.eval()
    local, global_ = [], []
    for images in kinds:
        local_moments, global_moments = _moments_of_both(detector, images)
        local.append(local_moments)
        global_.append(global_moments)
    n = detector.teacher.n_channels
    # A map is a mean over the channels: of fewer ones each must count for less.
    local_axes = principal_axes(local, n_local) * (n_local / n) ** 0.5
    global_axes = principal_axes(global_, n_global) * (n_global / n) ** 0.5
    mean, std = detector.teacher_mean, detector.teacher_std
    both: Tensor = torch.block_diag(local_axes, global_axes)  # type: ignore[no-untyped-call]
    teacher, student = detector.teacher, detector.student
    narrow = partial(PatchDescriptionNetwork, detector.size)
    reduced = Detector(
        project(
            teacher,
            narrow(n_local, n_hidden=teacher.n_hidden),
            local_axes / std,
            mean,
        ),
        project(
            student,
            narrow(n_local + n_global, n_hidden=student.n_hidden),
            both,
            mean.new_zeros(2 * n),
        ),
        project(
            detector.autoencoder, Autoencoder(n_global), global_axes, mean.new_zeros(n)
        ),
        ChannelStatistics(mean.new_zeros(n_local), mean.new_ones(n_local)),
    )
    return reduced.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def project(source: Network, target: Network, matrix: Axes, mean: Channels) -> Network:
    """Give a network the descriptors `matrix @ (descriptor - mean)` of another one.

    The last convolution is linear, so it takes up both, and costs less with fewer
    channels.

    Args:
        source: Network of all channels.
        target: Network of the same hidden layers, with a channel for each row of the
            matrix; changed in place and returned.
        matrix: A row for each channel of the new descriptors.
        mean: Vector that is subtracted from the descriptors before.
    """
    state = source.state_dict()
    *_, weight, bias = state  # of the last convolution
    rows = matrix.double()
    state[weight] = torch.einsum("ac,cihw->aihw", rows, state[weight].double())
    state[bias] = rows @ (state[bias] - mean).double()
    target.load_state_dict(state)
    target.operations = source.operations
    return target.to(matrix.device).train(source.training)


def _moments_of_both(
    detector: Detector, images: Iterable[Batch]
) -> tuple[Moments, Moments]:
    """Measure both differences in one pass over the images."""
    local, global_ = torch.zeros(()).double(), torch.zeros(()).double()
    for batch in images:
        differences = detector.differences(batch)
        local = local + moments(differences.local)
        global_ = global_ + moments(differences.global_)
    return local, global_
