"""Fewer channels for the same maps: a trained detector along its principal axes.

A map is a sum of squares over the channels, so turning the differences in it changes
nothing. Along the axes of their largest squares a few channels hold most of that sum;
the last layer of every network can leave out the others. Deviation: the paper sums over
all 384 channels.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from efficientad.method.detector import Channels, ChannelStatistics, Detector
from efficientad.method.inputs import Images
from efficientad.method.losses import Descriptors
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.natural_images.pictures import open_pretraining_images
from efficientad.training.channel_statistics import batches
from efficientad.training.step import Material, random_tile

Moments = Float[Tensor, "channels channels"]
Axes = Float[Tensor, "axes channels"]
Network = TypeVar("Network", PatchDescriptionNetwork, Autoencoder)
Kind = Iterable[tuple[Images, Images]]
"""Batches of one kind of image: for the local map, and for the global one."""

_N_IMAGES: Final = 24  # of each kind
_DRAW: Final = (0, 1)  # beside the seed; a step's own draws have one number there


def images_for_axes(material: Material, seed: int) -> Iterator[Kind]:
    """Yield some of the training images, then some natural ones.

    Without a source of natural images these are the default ones. With tiles, the local
    map's axes are those of tiles.
    """
    rng = np.random.default_rng((seed, *_DRAW))
    natural = material.pretraining_images or open_pretraining_images(None)
    drawn = np.stack([natural.draw(rng) for _ in range(_N_IMAGES)])
    every = -(-len(material.pixels) // _N_IMAGES)
    spread = material.pixels[::every]
    tiles = spread
    if material.tiled is not None:
        tiles = np.stack([random_tile(i, rng) for i in material.tiled[::every]])
    for local, global_ in ((tiles, spread), (drawn, drawn)):
        images = list(batches(global_, material.device))
        tiles_of = images if local is global_ else batches(local, material.device)
        yield zip(tiles_of, images, strict=True)


def moments(descriptors: Descriptors) -> Moments:
    """Return the sum of the outer products of vectors, in double precision."""
    vectors = descriptors.transpose(0, 1).flatten(1)
    return (vectors @ vectors.T).double()


def principal_axes(kinds: Iterable[Moments], n_axes: int) -> Axes:
    """Return the directions along which vectors have most of their squares.

    They are orthonormal rows, that of the largest squares first. Each kind of vectors
    counts the same, whatever its scale.
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
    kinds: Iterable[Kind],
    n_local: int,
    n_global: int,
) -> Detector:
    """Return a detector of fewer channels whose raw maps are nearly the same.

    Each kind of image counts the same. The differences of the networks on natural
    images stand for those on defects.

    Args:
        detector: Trained detector of all channels; its weights are not changed.
        kinds: Batches of each kind of image.
        n_local: Channels of the local map.
        n_global: Channels of the global map.
    """
    detector.eval()
    measured = [_moments_of_both(detector, kind) for kind in kinds]
    local, global_ = zip(*measured, strict=True)
    teacher, student = detector.teacher, detector.student
    n = teacher.n_channels
    # A map is a mean over the channels: of fewer ones each must count for less.
    local_axes = principal_axes(local, n_local) * (n_local / n) ** 0.5
    global_axes = principal_axes(global_, n_global) * (n_global / n) ** 0.5
    mean, std = detector.teacher_mean, detector.teacher_std
    both: Tensor = torch.block_diag(local_axes, global_axes)  # type: ignore[no-untyped-call]

    def narrow(network: PatchDescriptionNetwork, axes: Axes) -> PatchDescriptionNetwork:
        n_hidden = network.n_hidden
        return PatchDescriptionNetwork(network.size, len(axes), n_hidden=n_hidden)

    zeros = mean.new_zeros(2 * n)
    reduced = Detector(
        project(teacher, narrow(teacher, local_axes), local_axes / std, mean),
        project(student, narrow(student, both), both, zeros),
        project(detector.autoencoder, Autoencoder(n_global), global_axes, zeros[:n]),
        ChannelStatistics(mean.new_zeros(n_local), mean.new_ones(n_local)),
    )
    return reduced.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def project(source: Network, target: Network, matrix: Axes, mean: Channels) -> Network:
    """Return a target that gives the source's descriptors as `matrix @ (own - mean)`.

    The last convolution is linear, so it takes up both, and costs less with fewer
    channels. The target has the source's hidden layers, and is changed in place.
    """
    state = source.state_dict()
    *_, weight, bias = state  # of the last convolution
    rows = matrix.double()
    state[weight] = torch.einsum("ac,cihw->aihw", rows, state[weight].double())
    state[bias] = rows @ (state[bias] - mean).double()
    target.load_state_dict(state)
    target.operations = source.operations
    return target.to(matrix.device).train(source.training)


def _moments_of_both(detector: Detector, kind: Kind) -> tuple[Moments, Moments]:
    local, global_ = torch.zeros(()).double(), torch.zeros(()).double()
    for tiles, images in kind:
        differences = detector.differences(images)
        global_ = global_ + moments(differences.global_)
        if tiles is not images:
            differences = detector.differences(tiles)
        local = local + moments(differences.local)
    return local, global_
