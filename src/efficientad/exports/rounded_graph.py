"""A graph whose convolutions read bytes, and weights in 8 bits.

A convolution whose input is never negative (pixels, and what comes from a ReLU) reads
it in 8 bits, from zero to the largest value on normal images. What is pooled is rounded
before, too, so that an engine writes and pools bytes. Nothing behind the last
convolutions is rounded: squared distances would be cut off at what normal images reach,
and with them every anomaly.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.exports.equalization import KEEPS_FACTORS
from efficientad.exports.graph import PIXELS
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
    """Return a graph whose convolutions read bytes where their input can be rounded.

    Args:
        model: As `detector_graph` gives it, perhaps equalized.
        rounding: Measurements of that model.
    """
    import onnx  # noqa: PLC0415 - only an export needs it

    writer = _Writer(model, rounding)
    # What stands between a ReLU and such a convolution handles bytes, too.
    read = {node.input[0] for node in model.graph.node if node.name in rounding.kernels}
    between = set()
    for node in reversed(model.graph.node):
        if node.op_type in {"AveragePool", "Concat"} and node.output[0] in read:
            between.add(node.output[0])
            read.update(node.input)
    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if node.name in rounding.kernels:
            writer.round_convolution(node)
        elif node.output[0] in between:
            node.input[:] = [writer.value(name) for name in node.input]
        writer.nodes.append(node)
    return writer.model()


def without(model: "onnx.ModelProto", noise: Mapping[str, float]) -> "onnx.ModelProto":
    """Subtract a number from each of some values, which may be outputs of the graph.

    A share of what there was stays: a raw map is positive, and one cell of it near zero
    would decide the level that the whole map is divided by.

    Args:
        model: Any graph.
        noise: The numbers, by the names of the values.
    """
    import onnx  # noqa: PLC0415 - only an export needs it
    from onnx import helper, numpy_helper  # noqa: PLC0415

    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:]

    def op(kind: str, x: str, y: str, result: str) -> str:
        found.graph.node.append(helper.make_node(kind, [x, y], [result], name=result))
        return result

    def constant(value: float, name: str) -> str:
        tensor = numpy_helper.from_array(np.array(value, np.float32), name)
        found.graph.initializer.append(tensor)
        return name

    for node in model.graph.node:
        found.graph.node.append(node)
        name = node.output[0]
        if name in noise:
            noisy = f"{name}_noisy"
            last = found.graph.node[-1]
            last.name = last.output[0] = noisy
            amount = constant(noise[name], f"{name}_noise")
            share = constant(_LEAST_SHARE, f"{name}_least_share")
            rest = op("Sub", noisy, amount, f"{name}_rest")
            least = op("Mul", noisy, share, f"{name}_least")
            op("Max", rest, least, name)
    return found


class _Writer:
    """Collects the operators of a graph whose convolutions are rounded."""

    def __init__(self, model: "onnx.ModelProto", rounding: Rounding) -> None:
        self._given = model
        self._rounding = rounding
        self._exact = {tensor.name: tensor for tensor in model.graph.initializer}
        self._constants: dict[str, NDArray[Any]] = {}
        self._done: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def value(self, name: str) -> str:
        """Round a value to bytes and back, once."""
        if name not in self._done:
            scale = self._scale(name)
            zero = self._constant(f"{name}_zero", np.array(0, np.uint8))
            self._op("QuantizeLinear", [name, scale, zero], f"{name}_bytes")
            self._done[name] = self._op(
                "DequantizeLinear", [f"{name}_bytes", scale, zero], f"{name}_rounded"
            )
        return self._done[name]

    def round_convolution(self, node: "onnx.NodeProto") -> None:
        """Let a convolution read rounded values, weights and, so, a rounded bias."""
        from onnx import numpy_helper  # noqa: PLC0415 - only an export needs it

        scale_of_value = float(self._constants[self._scale(node.input[0])])
        node.input[0] = self.value(node.input[0])
        multiples, scales, added = self._rounding.kernels[node.name]
        node.input[1] = self._stored(node.input[1], multiples, scales)
        bias: NDArray[Any] = np.zeros(len(scales))
        name = f"{node.name}_bias"
        if len(node.input) > 2:  # noqa: PLR2004 - else it has none
            name = node.input.pop()
            bias = numpy_helper.to_array(self._exact[name]).astype(np.float64)
        # An engine adds it to the sums of products, which have this scale.
        of_sums = scale_of_value * scales.astype(np.float64)
        limits = np.iinfo(np.int32)
        multiples = np.round((bias + added) / of_sums)
        multiples = np.clip(multiples, limits.min, limits.max).astype(np.int32)
        node.input.append(self._stored(name, multiples, of_sums.astype(np.float32)))

    def model(self) -> "onnx.ModelProto":
        """Return the graph, without the constants that nothing reads any more."""
        import onnx  # noqa: PLC0415 - only an export needs it

        found = onnx.ModelProto()
        found.CopyFrom(self._given)
        del found.graph.node[:], found.graph.initializer[:]
        found.graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input}
        found.graph.initializer.extend(
            tensor for name, tensor in self._exact.items() if name in read
        )
        found.graph.initializer.extend(
            onnx.numpy_helper.from_array(value, name)
            for name, value in self._constants.items()
        )
        return found

    def _scale(self, name: str) -> str:
        scale = byte_step(self._rounding.largest[name])
        return self._constant(f"{name}_scale", np.array(scale, np.float32))

    def _stored(
        self, name: str, multiples: NDArray[Any], scales: NDArray[np.float32]
    ) -> str:
        """Store a constant in whole multiples, a scale for each output channel."""
        self._constant(f"{name}_multiples", multiples)
        self._constant(f"{name}_scales", scales)
        zeros = self._constant(f"{name}_zeros", np.zeros(len(scales), multiples.dtype))
        inputs = [f"{name}_multiples", f"{name}_scales", zeros]
        return self._op("DequantizeLinear", inputs, f"{name}_rounded", axis=0)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants[name] = value
        return name

    def _op(self, kind: str, inputs: list[str], result: str, **how: Any) -> str:
        from onnx import helper  # noqa: PLC0415 - only an export needs it

        self.nodes.append(helper.make_node(kind, inputs, [result], name=result, **how))
        return result
