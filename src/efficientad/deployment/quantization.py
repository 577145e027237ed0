"""Convolutions in 8 bits, but for those whose rounding hurts the maps.

A convolution whose input is never negative (pixels, and what comes from a ReLU) reads
it in 8 bits, from zero to the largest value on normal images, and its weights, with a
scale for each output channel, in 7 of 8 bits: processors without VNNI would overflow
otherwise. What is pooled is rounded before, too, so that an engine writes and pools
bytes. Nothing behind the last convolutions is rounded: squared distances would be cut
off at what normal images reach, and with them every anomaly.

Before, hidden channels are equalized (`equalization.py`). Weights are rounded so that
outputs change little, not weights: they make up for each other's rounding on what lies
under the kernels on normal images, and the bias for what is left of the mean.

What is left of the rounding is noise, and a mean of squares grows by the square of it,
the quietest cells most, and these say how unusual the others are. It is measured on
normal images and taken off again where that brings a map closer.

Should the error of the maps still be above a limit, each convolution alone goes back to
single precision, which tells how much it costs; the costliest stay there.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.deployment.engines import GRID_OUTPUTS, INPUT
from efficientad.deployment.equalization import KEEPS_FACTORS, equalized
from efficientad.deployment.graph import PIXELS, RAW_GRIDS
from efficientad.images import RGBImage
from efficientad.method.decision import HIGH_TARGET, LOW_TARGET

if TYPE_CHECKING:
    import onnx
    import onnxruntime

LIMIT = 0.1
"""Largest root mean square error of a map on calibration images, as a share of the
distance between the quantiles of normal pixels."""

_N_FOR_ERRORS = 8
"""Images on which errors and noise are measured."""
_LEVELS = 2**8 - 1
"""Of what a convolution reads, above zero."""
_WEIGHT_LEVELS = 2**6 - 1
"""Of a weight, on either side of zero."""
_NOISE = 1 / 12
"""Variance of a byte by its own rounding; what is smaller cannot matter."""
_BLOCK = 128
"""Weights of an output whose share in later ones is added up at once."""
_N_PATCHES = 400
"""Of an image, that are looked at for each convolution."""

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
    judged = images[:_N_FOR_ERRORS]
    exact, raw = _grids(model, judged), _grids(model, judged, RAW_GRIDS)
    model, measured = _measured(model, images)
    convolutions = [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[0] in measured.largest
    ]

    def rounded(kept: Collection[str]) -> "onnx.ModelProto":
        found = _rounded(model, measured, kept)
        noise = _noise(raw, _grids(found, judged, RAW_GRIDS))
        before = _errors(exact, _grids(found, judged))
        after = _errors(exact, _grids(_without(found, noise), judged))
        helps = dict(zip(noise, after < before, strict=True))
        return _without(found, {k: v for k, v in noise.items() if helps[k]})

    def error(kept: Collection[str]) -> float:
        return float(_errors(exact, _grids(rounded(kept), judged)).max())

    kept: tuple[str, ...] = ()
    remaining = everything = error(kept)
    if everything > LIMIT:
        gain = {name: everything - error((name,)) for name in convolutions}
        by_cost = sorted(convolutions, key=lambda name: -gain[name])
        while remaining > LIMIT:
            kept = tuple(by_cost[: len(kept) + 1])
            remaining = error(kept)
    report = QuantizationReport(len(convolutions), kept, remaining)
    return rounded(kept), report


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


class _Kernels(NamedTuple):
    """Rounded weights of a convolution."""

    multiples: NDArray[np.int8]
    scales: NDArray[np.float32]
    added: NDArray[np.float64]
    """To the bias, for what the rounding changes on the mean: (outputs,)."""


class _Measured(NamedTuple):
    """What is known of a graph from normal images."""

    largest: dict[str, float]
    """Of each value that can be rounded to unsigned bytes. Values that are joined have
    it in common."""
    kernels: dict[str, _Kernels]
    """Of each convolution that reads such a value, by name."""


def _measured(
    model: "onnx.ModelProto", images: Sequence[RGBImage]
) -> tuple["onnx.ModelProto", _Measured]:
    """Equalize a graph, and measure what rounding it needs."""
    names = _never_negative(model)
    values = _values(model, names, images)
    channels = {name: np.zeros(1) for name in names}
    for of_image in values:
        for name, value in of_image.items():
            channels[name] = np.maximum(channels[name], value.max((1, 2)))
    model, channels = equalized(model, channels)
    largest = {name: float(each.max()) for name, each in channels.items()}
    for node in model.graph.node:
        if node.op_type == "Concat" and node.output[0] in largest:
            for name in node.input:
                largest[name] = largest[node.output[0]]
    # Pixels are bytes as they are.
    largest[PIXELS] = float(_LEVELS)
    return model, _Measured(largest, _rounded_kernels(model, largest, images))


def _rounded_kernels(
    model: "onnx.ModelProto", largest: Mapping[str, float], images: Sequence[RGBImage]
) -> dict[str, _Kernels]:
    """Round the weights of each convolution that reads bytes."""
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
    for of_image in _values(model, names, images):
        for name, side in under:
            patches = _patches(of_image[name], side)
            moments[name, side] = moments[name, side] + patches.T @ patches
    found = {}
    for (name, side), convolutions in under.items():
        noise = _NOISE * _step(largest[name]) ** 2
        mean, covariance = _covariance(moments.pop((name, side)), noise)
        for convolution in convolutions:
            exact = weights[convolution]
            multiples, scales = rounded_kernels(exact, covariance)
            lost = exact - multiples * scales[:, None, None, None]
            added = lost.reshape(len(lost), -1) @ mean
            found[convolution] = _Kernels(multiples, scales, added)
    return found


def _step(largest: float) -> float:
    """Give the distance between two bytes of a value; one for what is always zero."""
    return largest / _LEVELS or 1.0


def _values(
    model: "onnx.ModelProto", names: Sequence[str], images: Sequence[RGBImage]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Give inner values of a graph for each image: (channels, rows, columns)."""
    session = _session(_giving(model, names))
    for image in images:
        values = session.run(list(names), {INPUT: image[np.newaxis]})
        yield {name: value[0] for name, value in zip(names, values, strict=True)}


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


def _never_negative(model: "onnx.ModelProto") -> list[str]:
    found = {PIXELS}
    for node in model.graph.node:
        comes_from = [name for name in node.input if name in found]
        is_joined = node.op_type == "Concat" and len(comes_from) == len(node.input)
        if node.op_type == "Relu" or (
            node.op_type in KEEPS_FACTORS and (is_joined or node.input[0] in found)
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
        multiples, scales, added = self._measured.kernels[node.name]
        node.input[1] = self._stored(node.input[1], multiples, scales)
        if len(node.input) > 2:  # noqa: PLR2004 - the bias, which may be absent
            bias = numpy_helper.to_array(self._exact[node.input[2]]).astype(np.float64)
            # An engine adds it to the sums of products, which have this scale.
            of_sums = scale_of_value * scales.astype(np.float64)
            limits = np.iinfo(np.int32)
            multiples = np.round((bias + added) / of_sums)
            multiples = np.clip(multiples, limits.min, limits.max)
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
        scale = _step(self._measured.largest[name])
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


def _giving(model: "onnx.ModelProto", names: Sequence[str]) -> "onnx.ModelProto":
    """Let a graph give some of its inner values."""
    import onnx  # noqa: PLC0415 - only an export needs it

    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.output[:]
    found.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return found


def _noise(exact: Grids, found: Grids) -> dict[str, float]:
    """Say by how much rounding raises the quieter half of each map, by its name."""
    is_quiet = exact <= np.median(exact, (0, 2, 3), keepdims=True)
    raised = np.where(is_quiet, found - exact, np.nan)
    return dict(zip(RAW_GRIDS, np.nanmedian(raised, (0, 2, 3)).tolist(), strict=True))


def _without(model: "onnx.ModelProto", noise: Mapping[str, float]) -> "onnx.ModelProto":
    """Subtract a number from each of some values before anything reads them."""
    import onnx  # noqa: PLC0415 - only an export needs it
    from onnx import helper, numpy_helper  # noqa: PLC0415

    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:]
    for node in model.graph.node:
        found.graph.node.append(node)
        inputs = [f"{k}_without_noise" if k in noise else k for k in node.input]
        found.graph.node[-1].input[:] = inputs
        name = node.output[0]
        if name in noise:
            amount = numpy_helper.from_array(
                np.array(noise[name], np.float32), f"{name}_noise"
            )
            found.graph.initializer.append(amount)
            inputs, result = [name, amount.name], f"{name}_without_noise"
            found.graph.node.append(
                helper.make_node("Sub", inputs, [result], name=result)
            )
    return found


def _session(model: "onnx.ModelProto") -> "onnxruntime.InferenceSession":
    import onnxruntime  # noqa: PLC0415 - only an export needs it

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _grids(
    model: "onnx.ModelProto",
    images: Sequence[RGBImage],
    names: Sequence[str] = GRID_OUTPUTS,
) -> Grids:
    """Both maps of each image, (images, 2, 56, 56)."""
    session = _session(_giving(model, names))
    found = [session.run(list(names), {INPUT: i[np.newaxis]}) for i in images]
    grids: Grids = np.array(found)[:, :, 0]
    return grids


def _errors(exact: Grids, found: Grids) -> NDArray[np.float32]:
    """Of each map, as `LIMIT` measures it."""
    squares = ((exact - found) ** 2).mean((0, 2, 3))
    errors: Grids = np.sqrt(squares) / np.float32(HIGH_TARGET - LOW_TARGET)
    return errors
