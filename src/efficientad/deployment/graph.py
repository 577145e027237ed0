"""The detector as a list of ONNX operators, written out one by one.

Nothing is traced, so the graph is what stands here. The names of the steps are those of
the method.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efficientad.images import INPUT_SIZE
from efficientad.method.decision import HIGH_TARGET, LOW_TARGET, MapQuantiles
from efficientad.method.placement import CELL_STRIDE, FIRST_CENTRE, GRID_CELLS

if TYPE_CHECKING:
    import onnx

    from efficientad.method.detector import Detector

OPSET = 18
IR_VERSION = 10
INPUT = "images"
MAP_OUTPUTS = ("combined_map", "local_map", "global_map")
"""(batch, height, width), at the images' own size."""
GRID_OUTPUTS = ("local_grid", "global_grid")
"""(batch, 56, 56), normalized, one value per descriptor."""
SCORE_OUTPUT = "image_score"
"""(batch,)."""

# Element types as the format numbers them.
_FLOAT, _DOUBLE = 1, 11
# Pillow's weights are multiples of one over this.
_FIXED_POINT = 2**22

Weights = Mapping[str, NDArray[np.float32]]


class _Graph:
    """Collects nodes and constants; each call gives the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def op(self, kind: str, *inputs: str, name: str | None = None, **how: Any) -> str:
        from onnx import helper  # noqa: PLC0415 - only an export needs it

        result = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **how))
        return result

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name


def detector_graph(detector: "Detector") -> "onnx.ModelProto":
    """Give the whole detector as one ONNX model.

    Args:
        detector: Calibrated.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    graph = _Graph()
    assert detector.calibration is not None
    weights = {k: v.cpu().numpy() for k, v in detector.state_dict().items()}
    size = graph.op("Shape", INPUT)
    height, width = (
        graph.op("Gather", size, graph.constant(axis, np.int64)) for axis in (1, 2)
    )
    pixels = _resized(graph, height, width)
    local_raw, global_raw = _raw_maps(graph, weights, detector, pixels)
    calibration = detector.calibration
    local_grid = _normalized(
        graph, local_raw, calibration.local_quantiles, "local_grid"
    )
    global_grid = _normalized(
        graph, global_raw, calibration.global_quantiles, "global_grid"
    )
    combined = graph.op(
        "Mul", graph.op("Add", local_grid, global_grid), graph.constant(0.5)
    )
    axes = graph.constant([1, 2], np.int64)
    graph.op("ReduceMax", combined, axes, keepdims=0, name=SCORE_OUTPUT)
    rows, columns = (_placement(graph, length) for length in (height, width))
    columns = graph.op("Transpose", columns, perm=[1, 0])
    for grid, name in zip(
        (combined, local_grid, global_grid), MAP_OUTPUTS, strict=True
    ):
        graph.op("MatMul", graph.op("MatMul", rows, grid), columns, name=name)

    def value(name: str, shape: Sequence[str | int], kind: int = 1) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    own: list[str | int] = ["batch", "height", "width"]
    cells: list[str | int] = ["batch", GRID_CELLS, GRID_CELLS]
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientad",
            [value(INPUT, [*own, 3], TensorProto.UINT8)],
            [
                *(value(name, own) for name in MAP_OUTPUTS),
                *(value(name, cells) for name in GRID_OUTPUTS),
                value(SCORE_OUTPUT, ["batch"]),
            ],
            [numpy_helper.from_array(v, k) for k, v in graph.constants.items()],
        ),
        producer_name="efficientad",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


def _resized(graph: _Graph, height: str, width: str) -> str:
    """Resize to 256 x 256 as Pillow mostly does: columns first, each pass rounded.

    In double precision, where every sum of Pillow's fixed-point weights is exact: ties
    are then rounded as it rounds them. Gives (batch, 3, 256, 256), whole numbers from 0
    to 255, float32.
    """
    image = graph.op("Cast", INPUT, to=_DOUBLE)
    image = graph.op("Transpose", image, perm=[0, 3, 1, 2])
    columns = graph.op("Transpose", _averaging(graph, width), perm=[1, 0])
    image = _rounded(graph, graph.op("MatMul", image, columns))
    image = _rounded(graph, graph.op("MatMul", _averaging(graph, height), image))
    return graph.op("Cast", image, to=_FLOAT)


def _rounded(graph: _Graph, value: str) -> str:
    return graph.op("Floor", graph.op("Add", value, graph.constant(0.5, np.float64)))


def _averaging(graph: _Graph, length: str) -> str:
    """Weights (256, length) of the bilinear filter, widened when it shrinks.

    In multiples of Pillow's fixed-point unit, double precision.
    """
    size = graph.op("Cast", length, to=_DOUBLE)
    one = graph.constant(1, np.float64)
    scale = graph.op("Div", size, graph.constant(INPUT_SIZE, np.float64))
    support = graph.op("Max", scale, one)
    ours = graph.constant(np.arange(INPUT_SIZE)[:, None] + 0.5, np.float64)
    theirs = graph.op("Range", graph.constant(0, np.float64), size, one)
    # In Pillow's order of operations, so that both round alike.
    distance = graph.op("Sub", theirs, graph.op("Mul", ours, scale))
    distance = graph.op("Add", distance, graph.constant(0.5, np.float64))
    share = graph.op("Mul", graph.op("Abs", distance), graph.op("Div", one, support))
    weights = _hat(graph, share)
    total = graph.op("ReduceSum", weights, graph.constant([1], np.int64))
    unit = graph.constant(_FIXED_POINT, np.float64)
    weights = graph.op("Mul", graph.op("Div", weights, total), unit)
    return graph.op("Div", _rounded(graph, weights), unit)


def _hat(graph: _Graph, distance: str) -> str:
    """Give max(0, 1 - distance), double precision."""
    weights = graph.op("Sub", graph.constant(1, np.float64), distance)
    return graph.op("Max", weights, graph.constant(0, np.float64))


def _placement(graph: _Graph, length: str) -> str:
    """Give `placement_matrix` for a length known at run time: (length, 56)."""
    size = graph.op("Cast", length, to=_DOUBLE)
    one, half = (graph.constant(v, np.float64) for v in (1, 0.5))
    pixels = graph.op("Range", graph.constant(0, np.float64), size, one)
    scale = graph.op("Div", graph.constant(INPUT_SIZE, np.float64), size)
    in_input = graph.op("Mul", graph.op("Add", pixels, half), scale)
    from_first = graph.op(
        "Sub", in_input, graph.constant(FIRST_CENTRE + 0.5, np.float64)
    )
    cell = graph.op("Div", from_first, graph.constant(CELL_STRIDE, np.float64))
    cell = graph.op("Max", cell, graph.constant(0, np.float64))
    cell = graph.op("Min", cell, graph.constant(GRID_CELLS - 1, np.float64))
    column = graph.op("Unsqueeze", cell, graph.constant([1], np.int64))
    cells = graph.constant(np.arange(GRID_CELLS)[None], np.float64)
    distance = graph.op("Abs", graph.op("Sub", column, cells))
    return graph.op("Cast", _hat(graph, distance), to=_FLOAT)


def _normalized(graph: _Graph, raw: str, quantiles: MapQuantiles, name: str) -> str:
    scale = (HIGH_TARGET - LOW_TARGET) / (quantiles.high - quantiles.low)
    centred = graph.op("Sub", raw, graph.constant(quantiles.low))
    return graph.op("Mul", centred, graph.constant(scale), name=name)


def _raw_maps(
    graph: _Graph, weights: Weights, detector: "Detector", pixels: str
) -> tuple[str, str]:
    from efficientad.method.inputs import (  # noqa: PLC0415 - needs torch
        IMAGENET_MEAN,
        IMAGENET_STD,
    )

    mean = np.array(IMAGENET_MEAN, np.float32).reshape(1, 3, 1, 1) * 255
    std = np.array(IMAGENET_STD, np.float32).reshape(1, 3, 1, 1) * 255
    images = graph.op("Sub", pixels, graph.constant(mean))
    images = graph.op("Div", images, graph.constant(std))
    teacher = _description(graph, weights, detector, "teacher", images)
    student = _description(graph, weights, detector, "student", images)
    autoencoder = _autoencoder(graph, weights, images)
    n = len(weights["teacher_mean"])
    first, last = (
        graph.op(
            "Slice",
            student,
            *(graph.constant([v], np.int64) for v in (start, start + n, 1)),
        )
        for start in (0, n)
    )
    return (
        _squared_distance(graph, teacher, first),
        _squared_distance(graph, autoencoder, last),
    )


def _squared_distance(graph: _Graph, a: str, b: str) -> str:
    difference = graph.op("Sub", a, b)
    square = graph.op("Mul", difference, difference)
    axis = graph.constant([1], np.int64)
    return graph.op("ReduceMean", square, axis, keepdims=0)


def _convolution(
    graph: _Graph,
    x: str,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    *,
    stride: int = 1,
    padding: int = 0,
    relu: bool = False,
) -> str:
    x = graph.op(
        "Conv",
        x,
        graph.constant(weight),
        graph.constant(bias),
        kernel_shape=list(weight.shape[2:]),
        strides=[stride, stride],
        pads=[padding] * 4,
    )
    return graph.op("Relu", x) if relu else x


def _description(
    graph: _Graph, weights: Weights, detector: "Detector", network: str, x: str
) -> str:
    """Write out a patch description network; a teacher's statistics are folded in."""
    from efficientad.method.networks import LAYERS  # noqa: PLC0415 - needs torch

    layers = LAYERS[detector.size]
    for index, (_, _, _, after) in enumerate(layers):
        weight = weights[f"{network}.convolutions.{index}.weight"]
        bias = weights[f"{network}.convolutions.{index}.bias"]
        if network == "teacher" and index == len(layers) - 1:
            std = weights["teacher_std"]
            weight = weight / std.reshape(-1, 1, 1, 1)
            bias = (bias - weights["teacher_mean"]) / std
        x = _convolution(graph, x, weight, bias, relu=after != "none")
        if after == "pool":
            x = graph.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return x


def _autoencoder(graph: _Graph, weights: Weights, x: str) -> str:
    from efficientad.method.networks import (  # noqa: PLC0415 - needs torch
        DECODER_SIZES,
        ENCODER_CHANNELS,
    )

    def of(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        layer = f"autoencoder.{name}"
        return weights[f"{layer}.weight"], weights[f"{layer}.bias"]

    for index in range(len(ENCODER_CHANNELS)):
        x = _convolution(
            graph, x, *of(f"encoder.{index}"), stride=2, padding=1, relu=True
        )
    x = _convolution(graph, x, *of("bottleneck"))
    for index, size in enumerate(DECODER_SIZES):
        x = _upsampled(graph, x, size)
        x = _convolution(graph, x, *of(f"decoder.{index}"), padding=2, relu=True)
    x = _upsampled(graph, x, GRID_CELLS)
    x = _convolution(graph, x, *of("refine"), padding=1, relu=True)
    return _convolution(graph, x, *of("describe"), padding=1)


def _upsampled(graph: _Graph, x: str, size: int) -> str:
    shape = graph.op("Shape", x, end=2)
    sizes = graph.op("Concat", shape, graph.constant([size, size], np.int64), axis=0)
    return graph.op(
        "Resize",
        x,
        "",
        "",
        sizes,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
