"""Networks in 16 bits: stored so, or also computed so.

The first halves the file, and every CPU can do it. The second is for engines whose
types are what the graph says. Resizing and everything behind the networks stay in
single precision either way.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

_KERNEL_DIMENSIONS: Final = 4
_FLOAT, _FLOAT16, _BFLOAT16 = 1, 10, 16
# They take the type of their first input along.
_FOLLOWING: Final = {"Relu", "AveragePool", "Resize"}


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
    import onnx  # noqa: PLC0415 - only an export needs it

    found = onnx.ModelProto()
    found.CopyFrom(model)
    casts = []
    kernels = {node.input[1] for node in found.graph.node if node.op_type == "Conv"}
    for tensor in found.graph.initializer:
        if tensor.name not in kernels:
            continue
        name = tensor.name
        stored = f"{name}_stored"
        tensor.CopyFrom(_in_16_bits(tensor, stored, has_bfloat16=has_bfloat16))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=_FLOAT))
    nodes = [*casts, *found.graph.node]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found


def with_fp16_networks(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Let convolutions, and what stands between them, compute in half precision.

    Args:
        model: As `with_16_bit_weights` gives it, without bfloat16.
    """
    import onnx  # noqa: PLC0415 - only engines with such networks need it

    found = onnx.ModelProto()
    found.CopyFrom(model)
    nodes = list(_Halving(found).nodes())
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for tensor in [t for t in found.graph.initializer if t.name not in used]:
        found.graph.initializer.remove(tensor)
    return found


class _Halving:
    """Goes through a graph once and keeps account of what is in 16 bits."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self._graph = model.graph
        self._constants = {t.name: t for t in model.graph.initializer}
        self._half = {
            tensor.name
            for tensor in model.graph.initializer
            if tensor.data_type == _FLOAT16
        }
        self._stored: dict[str, str] = {}
        self._cast: dict[tuple[str, int], str] = {}

    def nodes(self) -> "Iterator[onnx.NodeProto]":
        """Give the nodes of the changed graph, in order."""
        for node in list(self._graph.node):
            if node.op_type == "Cast" and node.input[0] in self._half:
                self._stored[node.output[0]] = node.input[0]
                continue
            if self._becomes_half(node):
                last = len(node.input) if node.op_type in {"Conv", "Concat"} else 1
                for index in range(last):
                    yield from self._take(node, index, _FLOAT16)
                self._half.add(node.output[0])
            else:
                for index, name in enumerate(node.input):
                    if name in self._half:
                        yield from self._take(node, index, _FLOAT)
            yield node

    def _becomes_half(self, node: "onnx.NodeProto") -> bool:
        if node.op_type == "Concat":
            return all(name in self._half for name in node.input)
        is_following = node.op_type in _FOLLOWING and node.input[0] in self._half
        return node.op_type == "Conv" or is_following

    def _take(
        self, node: "onnx.NodeProto", index: int, kind: int
    ) -> "Iterator[onnx.NodeProto]":
        """Let a node read an input in a type; where that is new, cast it before."""
        from onnx import helper  # noqa: PLC0415

        name = self._stored.get(node.input[index], node.input[index])
        if kind == _FLOAT or name not in self._half:
            cast = self._cast.get((name, kind))
            if cast is None:
                cast = self._cast[name, kind] = f"{name}_as_{kind}"
                constant = self._constants.get(name)
                if constant is None:
                    yield helper.make_node("Cast", [name], [cast], to=kind)
                else:
                    halved = _in_16_bits(constant, cast, has_bfloat16=False)
                    self._graph.initializer.append(halved)
            name = cast
        node.input[index] = name


def _in_16_bits(tensor: Any, name: str, *, has_bfloat16: bool) -> Any:
    """Give a constant in 16 bits, under another name; of kernels the sums stay."""
    from onnx import helper, numpy_helper  # noqa: PLC0415

    rounded = _bfloat16 if has_bfloat16 else _float16
    values = numpy_helper.to_array(tensor)
    if values.ndim == _KERNEL_DIMENSIONS:
        values = _with_their_sums(values, rounded)
    if not has_bfloat16:
        raw = values.astype(np.float16).tobytes()
        return helper.make_tensor(name, _FLOAT16, values.shape, raw, raw=True)
    raw = (_bfloat16(values).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return helper.make_tensor(name, _BFLOAT16, values.shape, raw, raw=True)


def _with_their_sums(
    kernels: NDArray[np.float32],
    rounded: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Round weights so that the sum over each two-dimensional kernel stays.

    From the largest weight to the smallest, which is rounded finest, each takes what
    the ones before it lost.
    """
    lines = kernels.reshape(*kernels.shape[:2], -1)
    order = np.argsort(-np.abs(lines), axis=2)
    given = np.take_along_axis(lines, order, 2).astype(np.float64)
    found = np.empty_like(given, np.float32)
    lost = np.zeros(given.shape[:2])
    for tap in range(given.shape[2]):
        wanted = given[:, :, tap] + lost
        found[:, :, tap] = rounded(wanted.astype(np.float32))
        lost = wanted - found[:, :, tap]
    stored = np.empty_like(lines)
    np.put_along_axis(stored, order, found, 2)
    return stored.reshape(kernels.shape)


def _float16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.astype(np.float16).astype(np.float32)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).view(np.float32)
