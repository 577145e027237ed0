"""The detector as a list of ONNX operators, written out one by one.

Nothing is traced, so the graph is what stands here. The names of the steps are those of
the method. Exact savings: the normalization of the input is folded into the first
convolutions, the teacher's channel statistics into its last one, and teacher minus
student is one convolution over the hidden features of both.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.graph_outputs import (
    GRID_OUTPUTS,
    INPUT,
    MAP_OUTPUTS,
    RAW_OUTPUTS,
    SCORE_OUTPUT,
)
from efficientad.exports.graph_nodes import Nodes, placement, resized
from efficientad.method.maps import (
    HIGH_TARGET,
    LOW_TARGET,
    SMALLEST_DISTANCE,
    MapScale,
)
from efficientad.method.placement import GRID_CELLS
from efficientad.method.sizes import (
    AUTOENCODER,
    DECODER_SIZES,
    ENCODER,
    PATCH_DESCRIPTION_NETWORKS,
    Conv,
    Pool,
    Resize,
)

if TYPE_CHECKING:
    import onnx

    from efficientad.method.detector import Detector

OPSET = 18
IR_VERSION = 10
PIXELS = "pixels"
"""The resized image inside the graph: whole numbers from 0 to 255."""

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def detector_graph(
    detector: "Detector", scales: Mapping[str, MapScale]
) -> "onnx.ModelProto":
    """Give the whole detector as one ONNX model.

    Args:
        detector: Trained networks.
        scales: Normalization of each map by its name.
    """
    graph = Nodes()
    pixels = resized(graph, INPUT, name=PIXELS)
    _raw_maps(graph, detector, pixels)
    grids = [
        _normalized(graph, RAW_OUTPUTS[name], scale, GRID_OUTPUTS[name])
        for name, scale in scales.items()
    ]
    local_grid, global_grid = grids
    combined = graph.op(
        "Mul", graph.op("Add", local_grid, global_grid), graph.constant(0.5)
    )
    graph.op(
        "ReduceMax", combined, graph.integer([1, 2]), keepdims=0, name=SCORE_OUTPUT
    )
    size = graph.op("Shape", INPUT)
    rows, columns = (
        placement(graph, graph.op("Gather", size, graph.integer(axis)))
        for axis in (1, 2)
    )
    columns = graph.op("Transpose", columns, perm=[1, 0])
    for grid, name in zip((combined, *grids), MAP_OUTPUTS, strict=True):
        graph.op("MatMul", graph.op("MatMul", rows, grid), columns, name=name)
    return _model(graph)


def _model(graph: Nodes) -> "onnx.ModelProto":
    from onnx import TensorProto, helper  # noqa: PLC0415

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
                *(value(name, cells) for name in GRID_OUTPUTS.values()),
                *(value(name, cells) for name in RAW_OUTPUTS.values()),
                value(SCORE_OUTPUT, ["batch"]),
            ],
            graph.initializers(),
        ),
        producer_name="efficientad",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


def _normalized(graph: Nodes, raw: str, scale: MapScale, name: str) -> str:
    if scale.levels is not None:
        raw = _divided_by_level(graph, raw, *scale.levels)
    slope = (HIGH_TARGET - LOW_TARGET) / (scale.high - scale.low)
    centred = graph.op("Sub", raw, graph.constant(scale.low))
    return graph.op("Mul", centred, graph.constant(slope), name=name)


def _divided_by_level(graph: Nodes, raw: str, least: float, greatest: float) -> str:
    """Write out `maps.divide_by_level`."""
    bounded = graph.op("Max", raw, graph.constant(SMALLEST_DISTANCE))
    mean = graph.op(
        "ReduceMean", graph.op("Reciprocal", bounded), graph.integer([1, 2]), keepdims=1
    )
    level = graph.op("Reciprocal", mean)
    level = graph.op("Max", level, graph.constant(least))
    level = graph.op("Min", level, graph.constant(greatest))
    return graph.op("Div", raw, level)


def _raw_maps(graph: Nodes, detector: "Detector", pixels: str) -> None:
    from efficientad.method.sizes import (  # noqa: PLC0415
        IMAGENET_MEAN,
        IMAGENET_STD,
    )

    weights = {k: v.cpu().double().numpy() for k, v in detector.state_dict().items()}
    shape = (1, 3, 1, 1)
    mean = np.array(IMAGENET_MEAN).reshape(shape) * 255
    for first in (
        "teacher.convolutions.0",
        "student.convolutions.0",
        "autoencoder.encoder.0",
    ):
        weights[f"{first}.weight"] /= np.array(IMAGENET_STD).reshape(shape) * 255
        # The autoencoder pads its input: zeros there are the mean, which must stay.
        if not first.startswith("autoencoder"):
            darker = (weights[f"{first}.weight"] * mean).sum((1, 2, 3))
            weights[f"{first}.bias"] = weights[f"{first}.bias"] - darker
    teacher, *_ = _hidden(graph, weights, detector, "teacher", pixels)
    student, last = _hidden(graph, weights, detector, "student", pixels)
    std = weights["teacher_std"]
    n = len(std)
    for_teacher = weights[f"teacher.{last}.weight"] / std.reshape(-1, 1, 1, 1)
    bias = (weights[f"teacher.{last}.bias"] - weights["teacher_mean"]) / std
    weight_s, bias_s = (
        weights[f"student.{last}.weight"],
        weights[f"student.{last}.bias"],
    )
    local = _convolution(
        graph,
        graph.op("Concat", teacher, student, axis=1),
        np.concatenate([for_teacher, -weight_s[:n]], axis=1),
        bias - bias_s[:n],
        name="teacher_minus_student",
    )
    centred = graph.op("Sub", pixels, graph.constant(mean))
    autoencoder = _autoencoder(graph, weights, centred)
    student_for_autoencoder = _convolution(
        graph, student, weight_s[n:], bias_s[n:], name="student_for_autoencoder"
    )
    difference = graph.op("Sub", autoencoder, student_for_autoencoder)
    _mean_of_squares(graph, local, n, RAW_OUTPUTS["local"])
    _mean_of_squares(graph, difference, len(bias_s) - n, RAW_OUTPUTS["global"])


def _mean_of_squares(graph: Nodes, difference: str, n_channels: int, name: str) -> None:
    """Write it as a norm: the engines then never store the squares."""
    norm = graph.op("ReduceL2", difference, graph.integer([1]), keepdims=0)
    share = graph.constant(1 / n_channels)
    graph.op("Mul", graph.op("Mul", norm, norm), share, name=name)


def _convolution(
    graph: Nodes,
    x: str,
    weight: Array,
    bias: Array,
    *,
    stride: int = 1,
    padding: int = 0,
    relu: bool = False,
    name: str,
) -> str:
    x = graph.op(
        "Conv",
        x,
        graph.constant(weight),
        graph.constant(bias),
        kernel_shape=list(weight.shape[2:]),
        strides=[stride, stride],
        pads=[padding] * 4,
        name=name,
    )
    return graph.op("Relu", x) if relu else x


def _hidden(
    graph: Nodes, weights: Weights, detector: "Detector", network: str, x: str
) -> tuple[str, str]:
    """Write out a patch description network but for its last convolution.

    Returns:
        Its hidden features, and the name of the last convolution in a network.
    """
    index = 0
    for layer in PATCH_DESCRIPTION_NETWORKS[detector.size][:-1]:
        if isinstance(layer, Pool):
            x = graph.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            continue
        name = f"{network}.convolutions.{index}"
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        x = _convolution(graph, x, weight, bias, relu=True, name=f"{network}_{index}")
        index += 1
    return x, f"convolutions.{index}"


def _autoencoder(graph: Nodes, weights: Weights, x: str) -> str:
    names = chain(
        (f"encoder.{index}" for index in range(len(ENCODER) - 1)),
        ("bottleneck",),
        (f"decoder.{index}" for index in range(len(DECODER_SIZES))),
        ("refine", "describe"),
    )
    for layer in AUTOENCODER:
        if isinstance(layer, Resize):
            x = _upsampled(graph, x, layer.side)
        elif isinstance(layer, Conv):
            name = f"autoencoder.{next(names)}"
            x = _convolution(
                graph,
                x,
                weights[f"{name}.weight"],
                weights[f"{name}.bias"],
                stride=layer.stride,
                padding=layer.padding,
                relu=layer.relu,
                name=name.replace(".", "_"),
            )
    return x


def _upsampled(graph: Nodes, x: str, size: int) -> str:
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
