"""Convolutions in 8 bits, but for those whose rounding hurts the maps.

ONNX Runtime's static quantization puts a rounding to 8 bits before and behind each
convolution, with ranges measured on normal images. Nothing behind the convolutions is
rounded: squared distances would be cut off at what normal images reach, and with them
every anomaly. Weights have a scale for each channel and use 7 of the 8 bits, as
processors without VNNI would overflow otherwise.

Then each convolution alone goes back to single precision, and the error of the maps
tells how much it costs. The costliest stay there until the rest is within a limit.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efficientad.deployment.engines import GRID_OUTPUTS, INPUT
from efficientad.deployment.graph import PIXELS
from efficientad.images import RGBImage
from efficientad.method.decision import HIGH_TARGET, LOW_TARGET

if TYPE_CHECKING:
    import onnx

LIMIT = 0.05
"""Largest root mean square error of a map on calibration images, as a share of the
distance between the quantiles of normal pixels."""

_N_FOR_ERRORS = 4
_EXACT = "exact_"

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


class _Reader:
    """Gives calibration images one by one, as ONNX Runtime asks for them."""

    def __init__(self, images: Sequence[RGBImage]) -> None:
        self._images: Iterator[RGBImage] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[np.newaxis]}


def quantized(
    model: "onnx.ModelProto", images: Sequence[RGBImage]
) -> tuple["onnx.ModelProto", QuantizationReport]:
    """Round the convolutions of a detector's graph to 8 bits.

    Args:
        model: As `detector_graph` gives it.
        images: Normal ones, at least one; ranges and errors are measured on them.
    """
    full = _fully_quantized(model, images)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    judged = images[:_N_FOR_ERRORS]
    exact = _grids(model, judged)

    def error(kept: Sequence[str]) -> float:
        return _error(exact, _grids(_restored(full, model, kept), judged))

    everything = error(())
    gain = {name: everything - error((name,)) for name in convolutions}
    by_cost = sorted(convolutions, key=lambda name: -gain[name])
    n_kept, measured = 0, everything
    while measured > LIMIT:
        n_kept += 1
        measured = error(by_cost[:n_kept])
    kept = tuple(by_cost[:n_kept])
    report = QuantizationReport(len(convolutions), kept, measured)
    return _restored(full, model, kept), report


def _fully_quantized(
    model: "onnx.ModelProto", images: Sequence[RGBImage]
) -> "onnx.ModelProto":
    import onnx  # noqa: PLC0415 - only an export needs it
    from onnxruntime.quantization import (  # noqa: PLC0415
        QuantFormat,
        QuantType,
        quantize_static,
    )

    given = onnx.ModelProto()
    given.CopyFrom(model)
    # Shapes are known where they matter; else it asks for another pass to find them.
    onnx.helper.set_model_props(given, {"onnx.quant.pre_process": "onnxruntime.quant"})
    exactly = {"scale": np.array(1, np.float32), "zero_point": np.array(0, np.uint8)}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "quantized.onnx"
        quantize_static(
            given,
            target,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": {PIXELS: [exactly]}},
        )
        found = onnx.load(target)
    del found.metadata_props[:]
    return found


def _restored(
    full: "onnx.ModelProto", model: "onnx.ModelProto", names: Sequence[str]
) -> "onnx.ModelProto":
    """Take the rounding of some convolutions' weights, inputs and outputs away."""
    import onnx  # noqa: PLC0415 - only an export needs it

    found = onnx.ModelProto()
    found.CopyFrom(full)
    original = {node.name: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    rounded = _rounded_values(found)
    for node in found.graph.node:
        if node.name not in names:
            continue
        node.CopyFrom(original[node.name])
        for index, name in enumerate(node.input[1:], start=1):
            # Under another name: the rounded ones may have kept theirs.
            node.input[index] = f"{_EXACT}{name}"
            found.graph.initializer.append(constants[name])
            found.graph.initializer[-1].name = node.input[index]
    # What only such convolutions gave, others take as it is.
    exact = {original[name].output[0] for name in names}
    exact |= {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Relu" and node.input[0] in exact
    }
    for node in found.graph.node:
        if node.op_type == "Conv" and node.name not in names:
            continue
        for index, name in enumerate(node.input):
            if rounded.get(name) in exact:
                node.input[index] = rounded[name]
    _prune(found)
    return found


def _rounded_values(model: "onnx.ModelProto") -> dict[str, str]:
    """Which value a rounded one was before."""
    nodes = {node.output[0]: node for node in model.graph.node}
    return {
        name: nodes[node.input[0]].input[0]
        for name, node in nodes.items()
        if node.op_type == "DequantizeLinear" and node.input[0] in nodes
    }


def _prune(model: "onnx.ModelProto") -> None:
    """Leave out what no output needs."""
    needed = {value.name for value in model.graph.output}
    unneeded = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed.update(node.input)
        else:
            unneeded.append(node)
    for node in unneeded:
        model.graph.node.remove(node)
    for tensor in [t for t in model.graph.initializer if t.name not in needed]:
        model.graph.initializer.remove(tensor)


def _grids(model: "onnx.ModelProto", images: Sequence[RGBImage]) -> Grids:
    """Both maps of each image, (images, 2, 56, 56)."""
    import onnxruntime  # noqa: PLC0415 - only an export needs it

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = [session.run(list(GRID_OUTPUTS), {INPUT: i[np.newaxis]}) for i in images]
    grids: Grids = np.array(found)[:, :, 0]
    return grids


def _error(exact: Grids, found: Grids) -> float:
    squares = ((exact - found) ** 2).mean((0, 2, 3))
    return float(np.sqrt(squares.max())) / (HIGH_TARGET - LOW_TARGET)
