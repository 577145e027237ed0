"""A graph whose convolutions read bytes, and weights in 8 bits.

A convolution whose input is never negative (pixels, and what comes from a ReLU) reads
it in 8 bits, from zero to the largest value on normal images. What is pooled is rounded
before, too, so that an engine writes and pools bytes. Nothing behind the last
convolutions is rounded: squared distances would be cut off at what normal images reach,
and with them every anomaly.
"""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.exports.equalization import KEEPS_FACTORS
from efficientad.exports.graph import PIXELS
from efficientad.exports.graph_nodes import Nodes
from efficientad.exports.weight_rounding import RoundedKernels, byte_step

if TYPE_CHECKING:
    import onnx

_LEAST_SHARE: Final = 0.1
"""Share of a value that is left when noise is subtracted."""


class Rounding(NamedTuple):
    """Measurements of a graph on normal images."""

    largest: dict[str, float]
    """Largest number of each value that can be rounded to unsigned bytes. Values that
    are joined share it."""
    kernels: dict[str, RoundedKernels]
    """Rounded weights of each convolution that reads such a value, by name."""


def never_negative(model: "onnx.ModelProto") -> list[str]:
    """List the values that unsigned bytes can hold: pixels, and what ReLUs give."""
    found = {PIXELS}
    for node in model.graph.node:
        read = node.input[:1] if node.op_type != "Concat" else node.input
        is_kept = node.op_type in KEEPS_FACTORS and all(name in found for name in read)
        if node.op_type == "Relu" or is_kept:
            found.add(node.output[0])
    return sorted(found)


def rounded_graph(model: "onnx.ModelProto", rounding: Rounding) -> "onnx.ModelProto":
    """Return a graph whose convolutions read bytes where their input can be rounded."""
    writer = _Writer(model, rounding)
    # What stands between a ReLU and such a convolution handles bytes, too.
    read = {node.input[0] for node in model.graph.node if node.name in rounding.kernels}
    between = set()
    for node in reversed(model.graph.node):
        if node.op_type in {"AveragePool", "Concat"} and node.output[0] in read:
            between.add(node.output[0])
            read.update(node.input)
    for node in map(copy.deepcopy, model.graph.node):
        if node.name in rounding.kernels:
            writer.round_convolution(node)
        elif node.output[0] in between:
            node.input[:] = [writer.value(name) for name in node.input]
        writer.graph.nodes.append(node)
    return writer.graph.in_place_of(model)


def without(model: "onnx.ModelProto", noise: Mapping[str, float]) -> "onnx.ModelProto":
    """Subtract a number from each of some values, which may be outputs of the graph.

    A share of what there was stays: a raw map is positive, and one cell of it near zero
    would decide the level that the whole map is divided by.
    """
    graph = Nodes("noise_")
    for node in map(copy.deepcopy, model.graph.node):
        graph.nodes.append(node)
        name = node.output[0]
        if name in noise:
            node.name = node.output[0] = noisy = f"{name}_noisy"
            rest = graph.op("Sub", noisy, graph.constant(noise[name]))
            least = graph.op("Mul", noisy, graph.constant(_LEAST_SHARE))
            graph.op("Max", rest, least, name=name)
    return graph.in_place_of(model)


class _Writer:
    """Collects the operators of a graph whose convolutions are rounded."""

    def __init__(self, model: "onnx.ModelProto", rounding: Rounding) -> None:
        self.graph = Nodes("rounded_")
        self._rounding = rounding
        self._exact = {tensor.name: tensor for tensor in model.graph.initializer}
        self._done: dict[str, str] = {}

    def value(self, name: str) -> str:
        """Round a value to bytes and back, once."""
        if name not in self._done:
            scale = self.graph.constant(byte_step(self._rounding.largest[name]))
            zero = self.graph.constant(0, np.uint8)
            stored = self.graph.op("QuantizeLinear", name, scale, zero)
            self._done[name] = self.graph.op("DequantizeLinear", stored, scale, zero)
        return self._done[name]

    def round_convolution(self, node: "onnx.NodeProto") -> None:
        """Let a convolution read rounded values, weights and, so, a rounded bias."""
        from onnx import numpy_helper  # noqa: PLC0415 - only an export needs it

        scale_of_value = np.float32(byte_step(self._rounding.largest[node.input[0]]))
        node.input[0] = self.value(node.input[0])
        multiples, scales, added = self._rounding.kernels[node.name]
        node.input[1] = self._stored(multiples, scales)
        bias: NDArray[Any] = np.zeros(len(scales))
        if len(node.input) > 2:  # noqa: PLR2004 - else it has none
            exact = numpy_helper.to_array(self._exact[node.input.pop()])
            bias = exact.astype(np.float64)
        # An engine adds it to the sums of products, which have this scale.
        of_sums = float(scale_of_value) * scales.astype(np.float64)
        limits = np.iinfo(np.int32)
        multiples = np.round((bias + added) / of_sums)
        multiples = np.clip(multiples, limits.min, limits.max).astype(np.int32)
        node.input.append(self._stored(multiples, of_sums.astype(np.float32)))

    def _stored(self, multiples: NDArray[Any], scales: NDArray[np.float32]) -> str:
        """Store a constant in whole multiples, a scale for each output channel."""
        constants = (
            self.graph.constant(multiples, multiples.dtype),
            self.graph.constant(scales),
            self.graph.constant(np.zeros(len(scales)), multiples.dtype),
        )
        return self.graph.op("DequantizeLinear", *constants, axis=0)
