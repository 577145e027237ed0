"""Convolutions in 8 bits.

Hidden channels are equalized (`equalization.py`), and weights rounded so that they make
up for each other (`weight_rounding.py`). A convolution whose input is never negative
(pixels, and what comes from a ReLU) reads it in 8 bits, from zero to the largest value
on normal images. What is pooled is rounded before, too, so that an engine writes and
pools bytes. Nothing behind the last convolutions is rounded: squared distances would be
cut off at what normal images reach, and with them every anomaly.

What is left of the rounding is noise, and a mean of squares grows by the square of it,
most in cells of low values, which set the level of a map. It is measured on
normal images and taken off again where that brings a map closer.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from efficientad.engines.graph_outputs import GRID_OUTPUTS, RAW_OUTPUTS
from efficientad.errors import ExportMismatchError
from efficientad.exports.calibration_images import spread
from efficientad.exports.equalization import KEEPS_FACTORS, equalized
from efficientad.exports.graph import PIXELS
from efficientad.exports.graph_nodes import Nodes
from efficientad.exports.weight_rounding import (
    LEVELS,
    RoundedKernels,
    byte_step,
    inner_values,
    kernels_of_bytes,
)
from efficientad.images.rgb import RGBImage
from efficientad.method.maps import HIGH_TARGET, LOW_TARGET

_RAW, _NORMALIZED = tuple(RAW_OUTPUTS.values()), tuple(GRID_OUTPUTS.values())

LIMIT: Final = 0.1
"""Largest root mean square error of a map on normal images, as a share of the distance
between the quantiles of normal pixels."""

_N_FOR_NOISE: Final = 8
"""Images, at most, on which noise is measured."""

_LEAST_SHARE: Final = 0.1
"""Share of a value that is left when noise is subtracted."""

Grids = NDArray[np.float32]
"""Both maps of each image, (images, 2, 56, 56)."""


def quantized(model: ModelProto, images: Sequence[RGBImage]) -> ModelProto:
    """Return a detector's graph with its convolutions in 8 bits.

    Ranges and noise are measured on the images, at least one normal one.

    Raises:
        ExportMismatchError: If the error of a map is above `LIMIT`.
    """
    measured_on = spread(images, _N_FOR_NOISE)
    equal, largest = _measured(model, images)
    rounded = rounded_graph(equal, largest, kernels_of_bytes(equal, largest, images))
    exact_raw, exact = _maps(model, measured_on)
    found_raw, found = _maps(rounded, measured_on)
    noise = _noise(exact_raw, found_raw)
    _, corrected = _maps(without(rounded, noise), measured_on)
    before, after = (
        ((exact - maps) ** 2).mean((0, 2, 3)) for maps in (found, corrected)
    )
    error = float(np.minimum(before, after).max()) ** 0.5 / (HIGH_TARGET - LOW_TARGET)
    if not error <= LIMIT:
        raise ExportMismatchError(
            f"8 bits may change the maps of normal images by {LIMIT:g} of the distance "
            f"between their quantiles, they change by {error:.2g}; use fp16"
        )
    # A map is made of its own raw map alone.
    helping = zip(noise.items(), after < before, strict=True)
    return without(rounded, dict(amount for amount, is_kept in helping if is_kept))


def _measured(
    model: ModelProto, images: Sequence[RGBImage]
) -> tuple[ModelProto, dict[str, float]]:
    """Equalize a graph, and return the largest number of each value for bytes."""
    names = never_negative(model)
    channels = {name: np.zeros(1) for name in names}
    for of_image in inner_values(model, names, images):
        for name, value in of_image.items():
            channels[name] = np.maximum(channels[name], value.max((1, 2)))
    model, channels = equalized(model, channels)
    largest = {name: float(each.max()) for name, each in channels.items()}
    for node in model.graph.node:
        if node.op_type == "Concat" and node.output[0] in largest:
            for name in node.input:
                largest[name] = largest[node.output[0]]
    # Pixels are bytes as they are.
    largest[PIXELS] = float(LEVELS)
    return model, largest


def _maps(model: ModelProto, images: Sequence[RGBImage]) -> tuple[Grids, Grids]:
    """Return raw and normalized maps of a graph."""
    values = list(inner_values(model, (*_RAW, *_NORMALIZED), images))
    raw, normalized = (
        np.array([[of_image[name] for name in names] for of_image in values])
        for names in (_RAW, _NORMALIZED)
    )
    return raw, normalized


def _noise(exact: Grids, found: Grids) -> dict[str, float]:
    """Return how much rounding raises the lower half of each map, by its name."""
    is_low = exact <= np.median(exact, (0, 2, 3), keepdims=True)
    raised = np.where(is_low, found - exact, np.nan)
    return dict(zip(_RAW, np.nanmedian(raised, (0, 2, 3)).tolist(), strict=True))


def never_negative(model: ModelProto) -> list[str]:
    """List the values that unsigned bytes can hold: pixels, and what ReLUs give."""
    found = {PIXELS}
    for node in model.graph.node:
        read = node.input[:1] if node.op_type != "Concat" else node.input
        is_kept = node.op_type in KEEPS_FACTORS and all(name in found for name in read)
        if node.op_type == "Relu" or is_kept:
            found.add(node.output[0])
    return sorted(found)


def rounded_graph(
    model: ModelProto,
    largest: Mapping[str, float],
    kernels: Mapping[str, RoundedKernels],
) -> ModelProto:
    """Return a graph whose convolutions read bytes where their input can be rounded.

    Values for unsigned bytes have a largest number; those that are joined share it.
    Each convolution that reads one has rounded weights.
    """
    writer = _Writer(model, largest)
    # What stands between a ReLU and such a convolution handles bytes, too.
    read = {node.input[0] for node in model.graph.node if node.name in kernels}
    between = set()
    for node in reversed(model.graph.node):
        if node.op_type in {"AveragePool", "Concat"} and node.output[0] in read:
            between.add(node.output[0])
            read.update(node.input)
    for node in map(copy.deepcopy, model.graph.node):
        if node.name in kernels:
            writer.round_convolution(node, kernels[node.name])
        elif node.output[0] in between:
            node.input[:] = [writer.value(name) for name in node.input]
        writer.graph.nodes.append(node)
    return writer.graph.in_place_of(model)


def without(model: ModelProto, noise: Mapping[str, float]) -> ModelProto:
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

    def __init__(self, model: ModelProto, largest: Mapping[str, float]) -> None:
        self.graph = Nodes("rounded_")
        self._largest = largest
        self._exact = {tensor.name: tensor for tensor in model.graph.initializer}
        self._done: dict[str, str] = {}

    def value(self, name: str) -> str:
        """Round a value to bytes and back, once."""
        if name not in self._done:
            scale = self.graph.constant(byte_step(self._largest[name]))
            zero = self.graph.constant(0, np.uint8)
            stored = self.graph.op("QuantizeLinear", name, scale, zero)
            self._done[name] = self.graph.op("DequantizeLinear", stored, scale, zero)
        return self._done[name]

    def round_convolution(self, node: NodeProto, kernels: RoundedKernels) -> None:
        """Round the values, weights and bias that a convolution reads."""
        scale_of_value = np.float32(byte_step(self._largest[node.input[0]]))
        node.input[0] = self.value(node.input[0])
        multiples, scales, added = kernels
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
