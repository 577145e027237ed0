"""Graphs from pixels to both maps, small enough to know what rounding does to them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from efficientad.engines.graph_outputs import GRID_OUTPUTS, INPUT, RAW_OUTPUTS
from efficientad.exports.weight_rounding import inner_values


def small_model(first, second) -> onnx.ModelProto:
    """Two convolutions of one by one between the pixels and both maps."""
    weights = {
        "first": np.array(first, np.float32).reshape(-1, 3, 1, 1),
        "second": np.array(second, np.float32).reshape(1, -1, 1, 1),
    }
    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["pixels", "first"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], name="c"),
    ]
    return model_of(nodes, weights)


def model_of(nodes, weights) -> onnx.ModelProto:
    """End the nodes with both maps of their last result."""
    last, nodes = nodes[-1].output[0], list(nodes)
    for name, raw in RAW_OUTPUTS.items():
        nodes.append(helper.make_node("Squeeze", [last, "axis"], [raw]))
        nodes.append(helper.make_node("Identity", [raw], [GRID_OUTPUTS[name]]))
    constants = [
        numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()
    ]
    constants.append(numpy_helper.from_array(np.array([1]), "axis"))
    shape = ["batch", "height", "width"]
    given = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [*shape, 3])
    maps = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in GRID_OUTPUTS.values()
    ]
    graph = helper.make_graph(nodes, "small", [given], maps, constants)
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def pooled_and_joined_model() -> onnx.ModelProto:
    """Pixels, two convolutions with ReLU, pooled and joined, and one over both."""
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.normal(size=(4, 3, 3, 3)),
        "second": rng.normal(size=(4, 3, 3, 3)),
        "last": rng.normal(size=(1, 8, 3, 3)) * 1e-4,
    }
    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
    ]
    for name in ("first", "second"):
        nodes += [
            helper.make_node("Conv", ["pixels", name], [f"{name}_a"], name=f"{name}_a"),
            helper.make_node("Relu", [f"{name}_a"], [f"{name}_b"]),
            helper.make_node(
                "AveragePool",
                [f"{name}_b"],
                [f"{name}_c"],
                kernel_shape=[2, 2],
                strides=[2, 2],
            ),
        ]
    nodes += [
        helper.make_node("Concat", ["first_c", "second_c"], ["joined"], axis=1),
        helper.make_node("Conv", ["joined", "last"], ["d"], name="d"),
    ]
    return model_of(nodes, weights)


def maps_of(model, images, outputs=GRID_OUTPUTS):
    """Return both maps of each image, (images, 2, height, width); else normalized."""
    names = list(outputs.values())
    values = inner_values(model, names, images)
    return np.array([[of_image[name] for name in names] for of_image in values])
