"""Convolutions in 8 bits, but for those whose rounding hurts the maps.

A convolution whose input is never negative (pixels, and what comes from a ReLU) reads
it in 8 bits, from zero to the largest value on normal images, and its weights, with a
scale for each output channel, in 7 of 8 bits: processors without VNNI would overflow
otherwise. What is pooled is rounded before, too, so that an engine writes and pools
bytes. Nothing behind the last convolutions is rounded: squared distances would be cut
off at what normal images reach, and with them every anomaly.

Weights are rounded so that outputs change little, not weights. Those of pixels make up
for each other's rounding on the patches of normal images; in hidden layers the sum over
each two-dimensional kernel stays as it was, so that an even patch gives what it gave.

Should the error of the maps still be above a limit, each convolution alone goes back to
single precision, which tells how much it costs; the costliest stay there.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.deployment.engines import GRID_OUTPUTS, INPUT
from efficientad.deployment.graph import PIXELS
from efficientad.images import RGBImage
from efficientad.method.decision import HIGH_TARGET, LOW_TARGET

if TYPE_CHECKING:
    import onnx
    import onnxruntime

LIMIT = 0.1
"""Largest root mean square error of a map on calibration images, as a share of the
distance between the quantiles of normal pixels."""

_N_FOR_ERRORS = 4
_LEVELS = 2**8 - 1
"""Of what a convolution reads, above zero."""
_WEIGHT_LEVELS = 2**6 - 1
"""Of a weight, on either side of zero."""
_NOISE = 1 / 12
"""Variance of a pixel by its own rounding; what is smaller cannot matter."""
_PATCH_STEP = 3
"""Between patches that are looked at, pixels."""
_KEEPS_SIGN = {"AveragePool", "Concat", "Relu", "Resize"}

Grids = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """Which convolutions stayed in single precision, and what the others cost."""

    n_convolutions: int
    in_single_precision: tuple[str, ...]
    """The costliest first."""
    error: float
    """As `LIMIT` measures it."""

    def __str__(self) -> str:
        kept = ", ".join(self.in_single_precision) or "none"
        return (
            f"{self.n_convolutions} convolutions in 8 bits but for {kept}; error of "
            f"the maps {self.error:.2g} of the distance between the quantiles"
        )


def quantized(
    model: "onnx.ModelProto", images: Sequence[RGBImage]
) -> tuple["onnx.ModelProto", QuantizationReport]:
    """Round the convolutions of a detector's graph to 8 bits.

    Args:
        model: As `detector_graph` gives it.
        images: Normal ones, at least one; ranges and errors are measured on them.
    """
    measured = _measured(model, images)
    convolutions = [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[0] in measured.largest
    ]
    judged = images[:_N_FOR_ERRORS]
    exact = _grids(model, judged)

    def error(kept: Collection[str]) -> float:
        return _error(exact, _grids(_rounded(model, measured, kept), judged))

    kept: tuple[str, ...] = ()
    remaining = everything = error(kept)
    if everything > LIMIT:
        gain = {name: everything - error((name,)) for name in convolutions}
        by_cost = sorted(convolutions, key=lambda name: -gain[name])
        while remaining > LIMIT:
            kept = tuple(by_cost[: len(kept) + 1])
            remaining = error(kept)
    report = QuantizationReport(len(convolutions), kept, remaining)
    return _rounded(model, measured, kept), report


def rounded_kernels(
    weights: NDArray[np.floating[Any]], covariance: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round weights to whole multiples of a scale for each output channel.

    Args:
        weights: (outputs, inputs, rows, columns).
        covariance: Of the values a kernel lies on, in the order of its weights:
            (weights of an output, the same). The outputs then vary by as little as
            rounding one weight after the other can make it, where those not yet
            rounded make up for those that are (Frantar et al., arXiv 2210.17323); what
            their means change is left to the bias. None: the sum over each
            two-dimensional kernel changes by half a scale at most; where rounding each
            weight to the nearest changes it by more, those that were closest to the
            other side go there.

    Returns:
        The multiples, of the same shape, and the scales, (outputs,).
    """
    scales = np.abs(weights).max((1, 2, 3)) / _WEIGHT_LEVELS
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    exact = weights / scales[:, None, None, None].astype(np.float64)
    if covariance is None:
        found = _with_their_sums(exact.reshape(*weights.shape[:2], -1))
    else:
        found = _with_their_outputs(exact.reshape(len(weights), -1), covariance)
    return found.reshape(weights.shape).astype(np.int8), scales


def _with_their_sums(exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round along the last axis and keep the sums along it."""
    nearest = np.round(exact)
    missing = exact - nearest
    n_up = np.round(missing.sum(-1, keepdims=True))
    rank = missing.argsort(-1, kind="stable").argsort(-1)
    goes_up = rank >= exact.shape[-1] - n_up
    goes_down = rank < -n_up
    return _within_levels(nearest + goes_up - 1.0 * goes_down)


def _with_their_outputs(
    exact: NDArray[np.float64], covariance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Round weight after weight; the later ones make up for the earlier ones."""
    inverse = np.linalg.inv(covariance + _NOISE * np.eye(len(covariance)))
    factor = np.linalg.cholesky(inverse).T
    left, found = exact.copy(), np.zeros_like(exact)
    for index, row in enumerate(factor):
        found[:, index] = _within_levels(np.round(left[:, index]))
        lost = (left[:, index] - found[:, index]) / row[index]
        left[:, index:] -= lost[:, np.newaxis] * row[index:]
    return found


def _within_levels(multiples: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(multiples, -_WEIGHT_LEVELS, _WEIGHT_LEVELS)


class _Patches(NamedTuple):
    """What is under the kernels of a convolution, in the order of their weights."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


class _Measured(NamedTuple):
    """What values a graph has on images."""

    largest: dict[str, float]
    """Of each value that can be rounded to unsigned bytes. Values that are joined have
    it in common."""
    patches: dict[str, _Patches]
    """Of convolutions that read pixels, by name."""


def _measured(model: "onnx.ModelProto", images: Sequence[RGBImage]) -> _Measured:
    import onnx  # noqa: PLC0415 - only an export needs it

    largest = dict.fromkeys(_never_negative(model), 0.0)
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.output[:]
    found.graph.output.extend(onnx.ValueInfoProto(name=name) for name in largest)
    session = _session(found)
    sides = {
        node.name: _side(model, node)
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[0] == PIXELS
    }
    patches: dict[int, list[NDArray[np.float64]]] = {s: [] for s in sides.values()}
    for image in images:
        values = session.run(list(largest), {INPUT: image[np.newaxis]})
        for name, value in zip(largest, values, strict=True):
            largest[name] = max(largest[name], float(value.max()))
            if name == PIXELS:
                for side, found_so_far in patches.items():
                    found_so_far.append(_moments(value[0], side))
    for node in model.graph.node:
        if node.op_type == "Concat" and node.output[0] in largest:
            for name in node.input:
                largest[name] = largest[node.output[0]]
    # Pixels are bytes as they are.
    largest[PIXELS] = float(_LEVELS)
    by_side = {side: _patches(np.mean(each, axis=0)) for side, each in patches.items()}
    return _Measured(largest, {name: by_side[side] for name, side in sides.items()})


def _side(model: "onnx.ModelProto", convolution: "onnx.NodeProto") -> int:
    (kernel,) = (t for t in model.graph.initializer if t.name == convolution.input[1])
    return int(kernel.dims[-1])


def _moments(pixels: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    """Mean products of the pixels of patches and, as the last of them, of one.

    Args:
        pixels: (channels, height, width).
        side: Of a patch.
    """
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (side, side), (1, 2))
    windows = windows[:, ::_PATCH_STEP, ::_PATCH_STEP].transpose(1, 2, 0, 3, 4)
    patches = windows.reshape(-1, len(pixels) * side**2).astype(np.float64)
    patches = np.concatenate([patches, np.ones((len(patches), 1))], axis=1)
    return patches.T @ patches / len(patches)


def _patches(moments: NDArray[np.float64]) -> _Patches:
    mean = moments[-1, :-1]
    return _Patches(mean, moments[:-1, :-1] - np.outer(mean, mean))


def _never_negative(model: "onnx.ModelProto") -> list[str]:
    found = {PIXELS}
    for node in model.graph.node:
        comes_from = [name for name in node.input if name in found]
        is_joined = node.op_type == "Concat" and len(comes_from) == len(node.input)
        if node.op_type == "Relu" or (
            node.op_type in _KEEPS_SIGN and (is_joined or node.input[0] in found)
        ):
            found.add(node.output[0])
    return sorted(found)


def _rounded(
    model: "onnx.ModelProto", measured: _Measured, kept: Collection[str]
) -> "onnx.ModelProto":
    """Let all convolutions but the kept ones read bytes."""
    import onnx  # noqa: PLC0415 - only an export needs it

    rounding = _Rounding(model, measured)
    rounded = [
        node
        for node in model.graph.node
        if node.op_type == "Conv"
        and node.input[0] in measured.largest
        and node.name not in kept
    ]
    # What stands between a ReLU and such a convolution handles bytes, too.
    read = {node.input[0] for node in rounded}
    between = set()
    for node in reversed(model.graph.node):
        if node.op_type in {"AveragePool", "Concat"} and node.output[0] in read:
            between.add(node.output[0])
            read.update(node.input)
    names = {node.name for node in rounded}
    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if node.op_type == "Conv" and node.name in names:
            rounding.round_convolution(node)
        elif node.output[0] in between:
            node.input[:] = [rounding.value(name) for name in node.input]
        rounding.nodes.append(node)
    return rounding.model()


class _Rounding:
    """Collects the operators of a graph whose convolutions are rounded."""

    def __init__(self, model: "onnx.ModelProto", measured: _Measured) -> None:
        self._given = model
        self._measured = measured
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
        weights = numpy_helper.to_array(self._exact[node.input[1]]).astype(np.float64)
        patches = self._measured.patches.get(node.name)
        multiples, scales = rounded_kernels(weights, patches and patches.covariance)
        node.input[1] = self._stored(node.input[1], multiples, scales)
        if len(node.input) > 2:  # noqa: PLR2004 - the bias, which may be absent
            bias = numpy_helper.to_array(self._exact[node.input[2]]).astype(np.float64)
            if patches is not None:
                lost = weights - multiples * scales[:, None, None, None]
                bias = bias + lost.reshape(len(bias), -1) @ patches.mean
            # An engine adds it to the sums of products, which have this scale.
            of_sums = scale_of_value * scales.astype(np.float64)
            limits = np.iinfo(np.int32)
            multiples = np.clip(np.round(bias / of_sums), limits.min, limits.max)
            node.input[2] = self._stored(
                node.input[2], multiples.astype(np.int32), of_sums.astype(np.float32)
            )

    def model(self) -> "onnx.ModelProto":
        """Give the graph, without the constants that nothing reads any more."""
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
        scale = self._measured.largest[name] / _LEVELS or 1.0
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


def _session(model: "onnx.ModelProto") -> "onnxruntime.InferenceSession":
    import onnxruntime  # noqa: PLC0415 - only an export needs it

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _grids(model: "onnx.ModelProto", images: Sequence[RGBImage]) -> Grids:
    """Both maps of each image, (images, 2, 56, 56)."""
    session = _session(model)
    found = [session.run(list(GRID_OUTPUTS), {INPUT: i[np.newaxis]}) for i in images]
    grids: Grids = np.array(found)[:, :, 0]
    return grids


def _error(exact: Grids, found: Grids) -> float:
    squares = ((exact - found) ** 2).mean((0, 2, 3))
    return float(np.sqrt(squares.max())) / (HIGH_TARGET - LOW_TARGET)
