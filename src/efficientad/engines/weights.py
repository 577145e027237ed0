"""Weights of a detector's convolutions, changed and joined as arrays. No torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import ConfigError
from efficientad.kernels.layers import Doubles, panel
from efficientad.method.composition import Network, head_weights
from efficientad.method.sizes import IMAGENET_MEAN, IMAGENET_STD

Weights = tuple[Doubles, Doubles]
"""Weight and bias of a convolution, in double precision."""
Arrays = Mapping[str, NDArray[Any]]
"""Weights and statistics of a detector by their names in its state."""


def weights_of(arrays: Arrays, prefix: str) -> list[Weights]:
    """Return the convolutions whose names have a prefix, in their order."""
    n = sum(name.startswith(prefix) and name.endswith(".bias") for name in arrays)
    return [pair_of(arrays, f"{prefix}.{index}") for index in range(n)]


def pair_of(arrays: Arrays, layer: str) -> Weights:
    """Return weight and bias of a convolution by its name."""
    weight, bias = arrays[f"{layer}.weight"], arrays[f"{layer}.bias"]
    return weight.astype(np.float64), bias.astype(np.float64)


def describing_layer(arrays: Arrays) -> Weights:
    """Return the teacher's last layer, whose descriptors are normalized."""
    weight, bias = weights_of(arrays, "teacher.convolutions")[-1]
    names = ("teacher_mean", "teacher_std")
    mean, std = (arrays[name].astype(np.float64) for name in names)
    return weight / std.reshape(-1, 1, 1, 1), (bias - mean) / std


def head_of(arrays: Arrays, network: Network) -> NDArray[np.float32]:
    """Return the matrix from a network's hidden features to descriptors."""
    kernels, _ = weights_of(arrays, f"{network}.convolutions")[-1]
    head = head_weights(kernels, arrays["teacher_std"], network)
    return head.astype(np.float32)


def on_pixels(weights: Weights) -> Weights:
    """Return a layer of normalized images as one of pixels from 0 to 255."""
    weight, bias = weights
    mean, std = (
        np.array(v).reshape(1, -1, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return weight / std, bias - (weight * mean / std).sum((1, 2, 3))


def split_outputs(weights: Weights, n_first: int) -> tuple[Weights, Weights]:
    """Return one convolution as two of the same input."""
    weight, bias = weights
    return (weight[:n_first], bias[:n_first]), (weight[n_first:], bias[n_first:])


def n_shared(one: Sequence[Weights], other: Sequence[Weights]) -> int:
    """Return how many first layers two networks have in common."""
    pairs = zip(one, other, strict=True)
    are_same = [all(map(np.array_equal, a, b)) for a, b in pairs]
    return (*are_same, False).index(False)


def side_by_side(one: Weights, other: Weights) -> Weights:
    """Return two convolutions of the same input as one."""
    return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])


def difference(one: Weights, other: Weights) -> Weights:
    """Return one minus the other, over the features of both side by side."""
    return np.concatenate([one[0], -other[0]], 1), one[1] - other[1]


def has_whole_panels(arrays: Arrays) -> bool:
    """Return whether the native layers take the numbers of channels of a detector.

    Layers of others are filled up with channels, which would count in the means of
    squares, the maps. A student's last layer is cut into one for the teacher and one
    for the autoencoder.
    """
    biases = [value for name, value in arrays.items() if name.endswith(".bias")]
    return all(len(v) % panel() == 0 for v in (arrays["teacher_mean"], *biases))


def require_whole_panels(arrays: Arrays) -> None:
    """Raise `ConfigError` if the native layers do not take the numbers of channels."""
    if not has_whole_panels(arrays):
        raise ConfigError(
            f"the native engine needs channels in multiples of {panel()}, this "
            "detector has others; use engine pytorch"
        )
