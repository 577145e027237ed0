"""The detector as a list of ONNX operators.

Nothing is traced. The layers come from the lists of `method.sizes`; everything else is
written out here. Some algebra saves work and changes nothing but rounding: the
normalization of the input is folded into the first convolutions, the teacher's channel
statistics into its last one, and teacher minus student is one convolution over the
hidden features of both.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper

from efficientad.decisions.decision import TermScale
from efficientad.engines.graph_outputs import (
    COMPOSITION_OUTPUT,
    GRID_OUTPUTS,
    INPUT,
    MAP_OUTPUTS,
    RAW_OUTPUTS,
    SCORE_OUTPUT,
)
from efficientad.engines.weights import (
    Arrays,
    Weights,
    describing_layer,
    difference,
    head_of,
    n_shared,
    on_pixels,
    pair_of,
    split_outputs,
    weights_of,
)
from efficientad.exports.graph_nodes import Nodes, placement, resized
from efficientad.method.composition import COMPOSITION, Composition, cell_window
from efficientad.method.maps import HIGH_TARGET, LOW_TARGET, SMALLEST_DISTANCE, MapScale
from efficientad.method.sizes import (
    AUTOENCODER,
    GRID_SIZE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PATCH_DESCRIPTION_NETWORKS,
    Conv,
    Layer,
    ModelSize,
    Pool,
    Resize,
    autoencoder_shapes,
    unpadded,
)
from efficientad.model_files.export_metadata import KEY, ONNX_SUFFIX

OPSET = 18
IR_VERSION = 10
PIXELS = "pixels"
"""The resized image inside the graph: whole numbers from 0 to 255."""

CELL_DESCRIPTORS = "cell_descriptors"
"""The convolution that describes cells, by its name; it stays in single precision."""


def detector_graph(
    arrays: Arrays,
    size: ModelSize,
    scales: Mapping[str, MapScale],
    terms: Mapping[str, TermScale],
) -> ModelProto:
    """Return the detector, from pixels to maps and score, as one ONNX model."""
    graph = Nodes()
    pixels = resized(graph, INPUT, name=PIXELS)
    features = _raw_maps(graph, arrays, size, pixels)
    grids = [
        _normalized(graph, RAW_OUTPUTS[name], scale, GRID_OUTPUTS[name])
        for name, scale in scales.items()
    ]
    local_grid, global_grid = grids
    combined = graph.op(
        "Mul", graph.op("Add", local_grid, global_grid), graph.constant(0.5)
    )
    _score(graph, arrays, combined, features, terms)
    shape = graph.op("Shape", INPUT)
    rows, columns = (
        placement(graph, graph.op("Gather", shape, graph.integer(axis)))
        for axis in (1, 2)
    )
    columns = graph.op("Transpose", columns, perm=[1, 0])
    for grid, name in zip((combined, *grids), MAP_OUTPUTS, strict=True):
        graph.op("MatMul", graph.op("MatMul", rows, grid), columns, name=name)
    return _model(graph, terms)


def write(model: ModelProto, path: Path) -> None:
    """Write a graph for the engine of a file's ending, or raise `OSError`."""
    checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    if path.suffix == ONNX_SUFFIX:
        path.write_bytes(content)
        return
    import openvino  # noqa: PLC0415 - not for ONNX

    converted = openvino.Core().read_model(content)
    converted.set_rt_info("", KEY)  # a place for the metadata
    try:
        openvino.save_model(converted, path, compress_to_fp16=False)
    except RuntimeError as error:  # its only reason is the disk
        raise OSError(str(error)) from error


def _score(
    graph: Nodes,
    arrays: Arrays,
    combined: str,
    features: Mapping[str, str],
    terms: Mapping[str, TermScale],
) -> None:
    """Write the maximum of the combined map and the points of the terms."""
    name = None if terms else SCORE_OUTPUT
    score = graph.op(
        "ReduceMax", combined, graph.integer([1, 2]), keepdims=0, name=name
    )
    if not terms:
        return
    term = terms[COMPOSITION]
    distance = _composition(graph, arrays, features)
    distance = graph.op("Squeeze", distance, graph.integer([1]))
    centered = graph.op("Sub", distance, graph.constant(term.center))
    points = graph.op("Mul", centered, graph.constant(term.slope))
    graph.op("Add", score, points, name=SCORE_OUTPUT)


def _composition(graph: Nodes, arrays: Arrays, features: Mapping[str, str]) -> str:
    """Write `Composition.distances` of the cells of a network's hidden features."""
    composition = Composition.from_arrays(arrays)
    assert composition is not None
    network = composition.network
    kernels, _ = weights_of(arrays, f"{network}.convolutions")[-1]
    weights = head_of(arrays, network)
    # A small network's last kernel is 4 wide, a medium one's 1.
    size, step = cell_window(GRID_SIZE + kernels.shape[2] - 1, network)
    pooled = graph.op(
        "AveragePool", features[network], kernel_shape=[size] * 2, strides=[step] * 2
    )
    head = graph.constant(weights[:, :, np.newaxis, np.newaxis])
    cells = graph.op("Conv", pooled, head, kernel_shape=[1, 1], name=CELL_DESCRIPTORS)
    mean = graph.op("ReduceMean", cells, graph.integer([2, 3]), keepdims=1)
    cells = graph.op("Sub", cells, mean)
    # Channels come last, as `Composition` has them.
    cells = graph.op("Transpose", cells, perm=[0, 2, 3, 1])
    cells = graph.op("Reshape", cells, graph.integer([0, -1]))
    mean, scale, axes = (
        graph.constant(values)
        for values in (composition.mean, composition.scale, composition.axes.T)
    )
    centered = graph.op("Mul", graph.op("Sub", cells, mean), scale)
    usual = graph.op("MatMul", centered, axes)
    squares = graph.op(
        "Sub",
        *(
            graph.op("ReduceSumSquare", x, graph.integer([1]))
            for x in (centered, usual)
        ),
    )
    squares = graph.op("Max", squares, graph.constant(0))
    return graph.op("Sqrt", squares, name=COMPOSITION_OUTPUT)


def _model(graph: Nodes, terms: Mapping[str, TermScale]) -> ModelProto:
    def value(name: str, shape: Sequence[str | int], kind: int = 1) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    own: list[str | int] = ["batch", "height", "width"]
    cells: list[str | int] = ["batch", GRID_SIZE, GRID_SIZE]
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
                *(value(name, ["batch", 1]) for name in terms),
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
    centered = graph.op("Sub", raw, graph.constant(scale.low))
    return graph.op("Mul", centered, graph.constant(slope), name=name)


def _divided_by_level(graph: Nodes, raw: str, least: float, greatest: float) -> str:
    """Write `maps.divide_by_level`."""
    bounded = graph.op("Max", raw, graph.constant(SMALLEST_DISTANCE))
    mean = graph.op(
        "ReduceMean", graph.op("Reciprocal", bounded), graph.integer([1, 2]), keepdims=1
    )
    level = graph.op("Reciprocal", mean)
    level = graph.op("Max", level, graph.constant(least))
    level = graph.op("Min", level, graph.constant(greatest))
    return graph.op("Div", raw, level)


def _raw_maps(
    graph: Nodes, arrays: Arrays, size: ModelSize, pixels: str
) -> dict[str, str]:
    """Write both raw maps; return the names of the hidden features by network."""
    teacher, student = (
        weights_of(arrays, f"{name}.convolutions") for name in ("teacher", "student")
    )
    teacher[0], student[0] = on_pixels(teacher[0]), on_pixels(student[0])
    layers = unpadded(PATCH_DESCRIPTION_NETWORKS[size])[:-1]
    # First layers that both networks have in common are computed once.
    shared = min(n_shared(teacher, student), len(teacher) - 2)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, Conv)]
    first = convolutions[shared]
    trunk = _network(graph, layers[:first], teacher, pixels, "trunk")
    of_teacher, of_student = (
        _network(graph, layers[first:], weights[shared:], trunk, name)
        for weights, name in ((teacher, "teacher"), (student, "student"))
    )
    n_local = len(arrays["teacher_std"])
    for_teacher, for_autoencoder = split_outputs(student[-1], n_local)
    local = _convolution(
        graph,
        graph.op("Concat", of_teacher, of_student, axis=1),
        difference(describing_layer(arrays), for_teacher),
        name="teacher_minus_student",
    )
    n_global = len(for_autoencoder[1])
    autoencoder = [pair_of(arrays, name) for name in autoencoder_shapes(n_global)]
    # The autoencoder pads its input with the mean, which must be zero for it.
    channel_mean, channel_std = (
        255 * np.array(values).reshape(1, 3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    kernels, bias = autoencoder[0]
    autoencoder[0] = kernels / channel_std, bias
    centered = graph.op("Sub", pixels, graph.constant(channel_mean))
    predicted = _network(graph, AUTOENCODER, autoencoder, centered, "autoencoder")
    described = _convolution(
        graph, of_student, for_autoencoder, name="student_for_autoencoder"
    )
    global_ = graph.op("Sub", predicted, described)
    _mean_of_squares(graph, local, n_local, RAW_OUTPUTS["local"])
    _mean_of_squares(graph, global_, n_global, RAW_OUTPUTS["global"])
    return {"teacher": of_teacher, "student": of_student}


def _network(
    graph: Nodes, layers: Sequence[Layer], weights: Iterable[Weights], x: str, name: str
) -> str:
    """Write layers, which read x, with the weights of the convolutions among them."""
    remaining = iter(weights)
    for index, layer in enumerate(layers):
        match layer:
            case Conv():
                x = _convolution(
                    graph, x, next(remaining), layer, name=f"{name}_{index}"
                )
            case Pool():
                x = graph.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            case Resize(side):
                x = _upsampled(graph, x, side)
            case _:
                pass  # Dropout does nothing outside of training.
    return x


_PLAIN = Conv(kernel=1, channels=1, relu=False)


def _convolution(
    graph: Nodes, x: str, weights: Weights, layer: Conv = _PLAIN, *, name: str
) -> str:
    """Write a convolution, with the sizes of its kernels and the rest of a layer."""
    kernels, bias = weights
    x = graph.op(
        "Conv",
        x,
        graph.constant(kernels),
        graph.constant(bias),
        kernel_shape=list(kernels.shape[2:]),
        strides=[layer.stride] * 2,
        pads=[layer.padding] * 4,
        name=name,
    )
    return graph.op("Relu", x) if layer.relu else x


def _upsampled(graph: Nodes, x: str, side: int) -> str:
    shape = graph.op("Shape", x, end=2)
    sizes = graph.op("Concat", shape, graph.integer([side, side]), axis=0)
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return graph.op("Resize", x, "", "", sizes, **how)


def _mean_of_squares(graph: Nodes, difference: str, n_channels: int, name: str) -> None:
    """Write it as the square of a norm, so that no engine stores all the squares."""
    norm = graph.op("ReduceL2", difference, graph.integer([1]), keepdims=0)
    share = graph.constant(1 / n_channels)
    graph.op("Mul", graph.op("Mul", norm, norm), share, name=name)
