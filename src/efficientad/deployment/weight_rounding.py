"""Weights in 8 bits, rounded so that outputs change little, not weights.

The weights of an output make up for each other's rounding on what lies under the kernel
on normal images, and the bias for what is left of the mean.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.deployment.inner_values import inner_values
from efficientad.images import RGBImage

if TYPE_CHECKING:
    import onnx

LEVELS: Final = 2**8 - 1
"""Of what a convolution reads, above zero."""

_WEIGHT_LEVELS: Final = 2**6 - 1
"""Of a weight, on either side of zero: seven of eight bits, since processors without
VNNI would overflow otherwise."""
_NOISE: Final = 1 / 12
"""Variance of a byte by its own rounding; what is smaller cannot matter."""
_BLOCK: Final = 128
"""Weights of an output whose share in later ones is added up at once."""
_N_PATCHES: Final = 400
"""Of an image, that are looked at for each convolution."""


class RoundedKernels(NamedTuple):
    """Rounded weights of a convolution."""

    multiples: NDArray[np.int8]
    """(outputs, inputs, rows, columns)."""
    scales: NDArray[np.float32]
    """(outputs,)."""
    added: NDArray[np.float64]
    """To the bias, for what the rounding changes on the mean: (outputs,)."""


def kernels_of_bytes(
    model: "onnx.ModelProto", largest: Mapping[str, float], images: Sequence[RGBImage]
) -> dict[str, RoundedKernels]:
    """Round the weights of each convolution that reads bytes.

    Args:
        model: The graph.
        largest: Of each value that is rounded to bytes.
        images: Normal ones; what lies under the kernels is measured on them.

    Returns:
        By the names of the convolutions.
    """
    from onnx import numpy_helper  # noqa: PLC0415 - only an export needs it

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {
        node.name: numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[0] in largest
    }
    # Convolutions of the same side that read the same value see the same patches.
    under: dict[tuple[str, int], list[str]] = {}
    for node in model.graph.node:
        if node.name in weights:
            side = weights[node.name].shape[-1]
            under.setdefault((node.input[0], side), []).append(node.name)
    moments = {each: np.zeros((), np.float32) for each in under}
    names = sorted({name for name, _ in under})
    for of_image in inner_values(model, names, images):
        for name, side in under:
            patches = _patches(of_image[name], side)
            moments[name, side] = moments[name, side] + patches.T @ patches
    found = {}
    for (name, side), convolutions in under.items():
        noise = _NOISE * byte_step(largest[name]) ** 2
        mean, covariance = _covariance(moments.pop((name, side)), noise)
        for convolution in convolutions:
            exact = weights[convolution]
            multiples, scales = rounded_kernels(exact, covariance)
            lost = exact - multiples * scales[:, None, None, None]
            added = lost.reshape(len(lost), -1) @ mean
            found[convolution] = RoundedKernels(multiples, scales, added)
    return found


def byte_step(largest: float) -> float:
    """Give the distance between two bytes of a value; one for what is always zero."""
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
        covariance: Of the values a kernel lies on, in the order of its weights:
            (weights of an output, the same), positive definite.

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
            found[:, index] = _within_levels(np.round(value))
            lost[:, index] = exact[:, index] - found[:, index]
    return found.reshape(weights.shape).astype(np.int8), scales


def _within_levels(multiples: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(multiples, -_WEIGHT_LEVELS, _WEIGHT_LEVELS)


def _patches(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Give some of what kernels lie on, each as a row of values and a one behind them.

    Args:
        values: (channels, height, width).
        side: Of a kernel.
    """
    windows = np.lib.stride_tricks.sliding_window_view(values, (side, side), (1, 2))
    n_rows, n_columns = windows.shape[1:3]
    chosen = np.random.default_rng(0).permutation(n_rows * n_columns)[:_N_PATCHES]
    rows, columns = np.unravel_index(chosen, (n_rows, n_columns))
    patches = windows[:, rows, columns].swapaxes(0, 1).reshape(len(chosen), -1)
    ones = np.ones((len(chosen), 1), np.float32)
    return np.concatenate([patches, ones], axis=1)


def _covariance(
    moments: NDArray[np.float32], noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give mean and covariance of patches, the latter shrunk towards independence.

    Few patches say little about many values; these then hardly make up for each other.

    Args:
        moments: Sums of products of the values and, as the last of them, of one.
        noise: Variance of each value by its rounding.
    """
    n_patches = float(moments[-1, -1])
    mean = moments[-1, :-1].astype(np.float64) / n_patches
    covariance = moments[:-1, :-1].astype(np.float64)
    covariance /= n_patches
    covariance -= np.outer(mean, mean)
    own = np.einsum("ii->i", covariance)
    shrunk = len(mean) / (len(mean) + n_patches)
    typical = own.mean()
    covariance *= 1 - shrunk
    own += shrunk * typical + noise
    return mean, covariance
