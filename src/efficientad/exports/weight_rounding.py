"""Weights in 8 bits, rounded so that the outputs change little.

The weights of an output make up for each other's rounding on what lies under the kernel
on normal images, and the bias for what is left of the mean.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, numpy_helper

from efficientad.engines.graph_outputs import INPUT
from efficientad.exports.graph import CELL_DESCRIPTORS
from efficientad.images.rgb import RGBImage

LEVELS: Final = 2**8 - 1
"""Levels of a value that a convolution reads, above zero."""

_WEIGHT_LEVELS: Final = 2**6 - 1
"""Levels of a weight on either side of zero: seven of eight bits, because processors
without VNNI would overflow otherwise."""
_NOISE: Final = 1 / 12
"""Variance of a byte by its own rounding; what is smaller cannot matter."""
_BLOCK: Final = 128
"""Weights of an output whose share in later ones is added up at once."""
_N_PATCHES: Final = 400
"""Patches of an image that are measured for each convolution."""


class RoundedKernels(NamedTuple):
    """Rounded weights of a convolution."""

    multiples: NDArray[np.int8]
    """(outputs, inputs, rows, columns)."""
    scales: NDArray[np.float32]
    """(outputs,)."""
    added: NDArray[np.float64]
    """To the bias, for what the rounding changes on the mean: (outputs,)."""


def inner_values(
    model: ModelProto, names: Sequence[str], images: Sequence[RGBImage]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield any values of a detector's graph for one image after the other, by name.

    They have no axis of the batch; of a convolution they are (channels, rows, columns).
    """
    giving = copy.deepcopy(model)
    del giving.graph.output[:]
    giving.graph.output.extend(ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        giving.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for image in images:
        values = session.run(list(names), {INPUT: image[np.newaxis]})
        yield {name: value[0] for name, value in zip(names, values, strict=True)}


def kernels_of_bytes(
    model: ModelProto, largest: Mapping[str, float], images: Sequence[RGBImage]
) -> dict[str, RoundedKernels]:
    """Round the weights of each convolution that reads bytes, by name.

    `largest` has the largest number of each value that is rounded to bytes. What lies
    under the kernels is measured on the images.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {
        node.name: numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        for node in model.graph.node
        if node.op_type == "Conv"
        and node.input[0] in largest
        and node.name != CELL_DESCRIPTORS
    }
    # Convolutions that go over the same value alike see the same patches.
    under: dict[_Windows, list[str]] = {}
    for node in model.graph.node:
        if node.name in weights:
            under.setdefault(_Windows.of(node, weights[node.name]), []).append(
                node.name
            )
    moments = {windows: _Moments() for windows in under}
    rng = np.random.default_rng(0)
    names = sorted({windows.value for windows in under})
    for of_image in inner_values(model, names, images):
        for windows in under:
            moments[windows].add(windows.some(of_image[windows.value], rng))
    found = {}
    for windows, convolutions in under.items():
        noise = _NOISE * byte_step(largest[windows.value]) ** 2
        mean, covariance = moments.pop(windows).mean_and_covariance(noise)
        for convolution in convolutions:
            exact = weights[convolution]
            multiples, scales = rounded_kernels(exact, covariance)
            lost = exact - multiples * scales[:, None, None, None]
            added = lost.reshape(len(lost), -1) @ mean
            found[convolution] = RoundedKernels(multiples, scales, added)
    return found


def byte_step(largest: float) -> float:
    """Return the distance between two bytes of a value; 1 if it is always zero."""
    return largest / LEVELS or 1.0


def rounded_kernels(
    weights: NDArray[np.floating[Any]], covariance: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round weights to whole multiples of a scale for each output channel.

    One weight after the other is rounded, so that it makes up for those before it as
    well as it can: the variance of the outputs changes little (Frantar et al., arXiv
    2210.17323). What their means change is left to the bias.

    Args:
        weights: (outputs, inputs, rows, columns).
        covariance: Covariance of the values under a kernel, in the order of its
            weights: (weights of an output, the same), positive definite.

    Returns:
        The multiples, of the same shape, and the scales, (outputs,).
    """
    scales = np.abs(weights).max((1, 2, 3)) / _WEIGHT_LEVELS
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    exact = weights / scales[:, None, None, None].astype(np.float64)
    exact = exact.reshape(len(weights), -1)
    # The variance of an output is the square of this times what its weights lost.
    factor = np.linalg.cholesky(covariance).T
    factor = factor / np.diag(factor)[:, np.newaxis]
    found, lost = np.zeros_like(exact), np.zeros_like(exact)
    for end in range(exact.shape[1], 0, -_BLOCK):
        start = max(0, end - _BLOCK)
        of_block = slice(start, end)
        wanted = exact[:, of_block] + lost[:, end:] @ factor[of_block, end:].T
        for index in reversed(range(start, end)):
            here, later = index - start, slice(index + 1, end)
            value = wanted[:, here] + lost[:, later] @ factor[index, later]
            found[:, index] = np.round(value).clip(-_WEIGHT_LEVELS, _WEIGHT_LEVELS)
            lost[:, index] = exact[:, index] - found[:, index]
    return found.reshape(weights.shape).astype(np.int8), scales


class _Windows(NamedTuple):
    """Places of a convolution's kernels on the value it reads."""

    value: str
    side: int
    stride: int
    padding: int

    @classmethod
    def of(cls, node: NodeProto, weights: NDArray[np.float64]) -> "_Windows":
        """Read them off a convolution of square kernels."""
        told = {attribute.name: attribute.ints for attribute in node.attribute}
        (stride,) = set(told.get("strides", [1]))
        (padding,) = set(told.get("pads", [0]))
        return cls(node.input[0], weights.shape[-1], stride, padding)

    def some(
        self, values: NDArray[np.float32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Draw some of what the kernels lie on, (patches, weights of an output)."""
        edge = (self.padding, self.padding)
        padded = np.pad(values, ((0, 0), edge, edge))
        sides = (self.side, self.side)
        windows = np.lib.stride_tricks.sliding_window_view(padded, sides, (1, 2))
        windows = windows[:, :: self.stride, :: self.stride]
        n_rows, n_columns = windows.shape[1:3]
        chosen = rng.permutation(n_rows * n_columns)[:_N_PATCHES]
        rows, columns = np.unravel_index(chosen, (n_rows, n_columns))
        return windows[:, rows, columns].swapaxes(0, 1).reshape(len(chosen), -1)


class _Moments:
    """Mean and covariance of patches, from sums about those of the first image.

    Sums about zero would cancel where values hardly vary.
    """

    def __init__(self) -> None:
        self._n = 0
        self._origin = self._sum = self._products = np.zeros((), np.float32)

    def add(self, patches: NDArray[np.float32]) -> None:
        """Take in the patches of an image, (patches, values)."""
        if self._n == 0:
            self._origin = patches.mean(0)
        moved = patches - self._origin
        self._n += len(patches)
        self._sum = self._sum + moved.sum(0)
        self._products = self._products + moved.T @ moved

    def mean_and_covariance(
        self, noise: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return both, the covariance shrunk towards independence.

        Few patches say little about many values; these then hardly make up for each
        other. `noise` is the variance of each value by its rounding.
        """
        mean = self._sum.astype(np.float64) / self._n
        covariance = self._products.astype(np.float64)
        covariance /= self._n
        covariance -= np.outer(mean, mean)
        own = np.einsum("ii->i", covariance)
        shrunk = len(mean) / (len(mean) + self._n)
        typical = own.mean()
        covariance *= 1 - shrunk
        own += shrunk * typical + noise
        return mean + self._origin, covariance
