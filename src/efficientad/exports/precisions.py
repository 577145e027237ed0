"""Kernels stored in 16 bits, which halves the file.

Engines convert them to single precision once, when they load the file.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from efficientad.exports.graph_nodes import Nodes

Kernels = NDArray[np.float32]
"""(outputs, inputs, rows, columns)."""


def with_16_bit_weights(model: ModelProto, *, has_bfloat16: bool) -> ModelProto:
    """Return the graph with the kernels of all convolutions stored in 16 bits.

    bfloat16 has eight bits of precision and the range of single precision, in place of
    eleven bits and a range to 65504.
    """
    kind = TensorProto.BFLOAT16 if has_bfloat16 else TensorProto.FLOAT16
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    graph = Nodes("stored_")
    for tensor in model.graph.initializer:
        if tensor.name in kernels:
            rounded = with_kept_sums(numpy_helper.to_array(tensor), dtype)
            stored = graph.constant(rounded, dtype)
            graph.op("Cast", stored, name=tensor.name, to=TensorProto.FLOAT)
    graph.nodes += model.graph.node
    return graph.in_place_of(model)


def with_kept_sums(kernels: Kernels, dtype: np.dtype[Any]) -> Kernels:
    """Round weights so that the sum of each two-dimensional kernel stays.

    From the largest weight to the smallest, which is rounded finest, each weight takes
    up the rounding errors of those before it.
    """
    lines = kernels.reshape(*kernels.shape[:2], -1)
    order = np.argsort(-np.abs(lines), axis=2)
    exact = np.take_along_axis(lines, order, 2).astype(np.float64)
    found = np.empty_like(exact, np.float32)
    error = np.zeros(exact.shape[:2])
    for tap in range(exact.shape[2]):
        wanted = exact[:, :, tap] + error
        found[:, :, tap] = wanted.astype(np.float32).astype(dtype)
        error = wanted - found[:, :, tap]
    stored = np.empty_like(lines)
    np.put_along_axis(stored, order, found, 2)
    return stored.reshape(kernels.shape)
