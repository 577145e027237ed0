"""Weights in 16 bits: half the file, computed with in single precision."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

_KERNEL_AXES = 4
_FLOAT = 1


def with_16_bit_weights(
    model: "onnx.ModelProto", *, has_bfloat16: bool
) -> "onnx.ModelProto":
    """Store the kernels of all convolutions in 16 bits.

    The engines turn them back once, when they load the file.

    Args:
        model: As `detector_graph` gives it.
        has_bfloat16: Eight bits of precision and the range of single precision, in
            place of eleven bits and a range to 65504.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    found = type(model).FromString(model.SerializeToString())
    casts = []
    for tensor in found.graph.initializer:
        if len(tensor.dims) != _KERNEL_AXES or tensor.data_type != _FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.shape[0] == 1 and values.shape[2:] == (1, 1):
            continue  # the mean of the pixels
        name = tensor.name
        if has_bfloat16:
            bits = values.view(np.uint32)
            # To the nearest, ties to even.
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            raw = rounded.astype(np.uint16).tobytes()
            kind = TensorProto.BFLOAT16
        else:
            raw, kind = values.astype(np.float16).tobytes(), TensorProto.FLOAT16
        stored = helper.make_tensor(f"{name}_stored", kind, values.shape, raw, raw=True)
        tensor.CopyFrom(stored)
        casts.append(helper.make_node("Cast", [stored.name], [name], to=_FLOAT))
    nodes = [*casts, *found.graph.node]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found
