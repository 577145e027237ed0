"""Kernels stored in 16 bits, which halves the file.

Engines convert them to single precision once, when they load the file.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

# Element types as the format numbers them.
_FLOAT, _FLOAT16, _BFLOAT16 = 1, 10, 16
_BFLOAT16_BITS: Final = 16

Kernels = NDArray[np.float32]
"""(outputs, inputs, rows, columns)."""


def with_16_bit_weights(
    model: "onnx.ModelProto", *, has_bfloat16: bool
) -> "onnx.ModelProto":
    """Return the graph with the kernels of all convolutions stored in 16 bits.

    Args:
        model: Graph of `detector_graph`.
        has_bfloat16: Eight bits of precision and the range of single precision, in
            place of eleven bits and a range to 65504.
    """
    import onnx  # noqa: PLC0415 - only an export needs it

    found = onnx.ModelProto()
    found.CopyFrom(model)
    casts = []
    kernels = {node.input[1] for node in found.graph.node if node.op_type == "Conv"}
    for tensor in found.graph.initializer:
        if tensor.name in kernels:
            name, stored = tensor.name, f"{tensor.name}_stored"
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(_tensor(stored, values, has_bfloat16=has_bfloat16))
            casts.append(onnx.helper.make_node("Cast", [stored], [name], to=_FLOAT))
    nodes = [*casts, *found.graph.node]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found


def _tensor(name: str, kernels: Kernels, *, has_bfloat16: bool) -> Any:
    from onnx import helper  # noqa: PLC0415 - only an export needs it

    if has_bfloat16:
        rounded = rounded_kernels(kernels, to_bfloat16)
        bits = (rounded.view(np.uint32) >> _BFLOAT16_BITS).astype(np.uint16)
        kind, raw = _BFLOAT16, bits.tobytes()
    else:
        rounded = rounded_kernels(kernels, to_float16)
        kind, raw = _FLOAT16, rounded.astype(np.float16).tobytes()
    return helper.make_tensor(name, kind, kernels.shape, raw, raw=True)


def rounded_kernels(
    kernels: Kernels, rounded: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> Kernels:
    """Round weights so that the sum of each two-dimensional kernel stays.

    From the largest weight to the smallest, which is rounded finest, each weight takes
    up the rounding errors of those before it.

    Args:
        kernels: Weights of a convolution.
        rounded: Rounds an array to the nearest numbers of a format.
    """
    lines = kernels.reshape(*kernels.shape[:2], -1)
    order = np.argsort(-np.abs(lines), axis=2)
    exact = np.take_along_axis(lines, order, 2).astype(np.float64)
    found = np.empty_like(exact, np.float32)
    error = np.zeros(exact.shape[:2])
    for tap in range(exact.shape[2]):
        wanted = exact[:, :, tap] + error
        found[:, :, tap] = rounded(wanted.astype(np.float32))
        error = wanted - found[:, :, tap]
    stored = np.empty_like(lines)
    np.put_along_axis(stored, order, found, 2)
    return stored.reshape(kernels.shape)


def to_float16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the nearest half-precision numbers."""
    return values.astype(np.float16).astype(np.float32)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the nearest bfloat16 numbers, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    is_odd = (bits >> _BFLOAT16_BITS) & 1
    nearest = (bits + 0x7FFF + is_odd) >> _BFLOAT16_BITS << _BFLOAT16_BITS
    return nearest.view(np.float32)
