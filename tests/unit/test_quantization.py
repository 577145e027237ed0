"""Convolutions in 8 bits, on networks small enough to know which of them hurts."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from efficientad.deployment.engines import INPUT
from efficientad.deployment.quantization import LIMIT, _error, _grids, quantized


def small_model(first, second):
    """Two convolutions of one by one between the pixels and both maps."""
    weights = {
        "first": np.array(first, np.float32).reshape(-1, 3, 1, 1),
        "second": np.array(second, np.float32).reshape(1, -1, 1, 1),
    }
    names = ["local_grid", "global_grid"]
    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["pixels", "first"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], name="c"),
        *(helper.make_node("Squeeze", ["c", "axis"], [name]) for name in names),
    ]
    constants = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    constants.append(numpy_helper.from_array(np.array([1]), "axis"))
    shape = ["batch", "height", "width"]
    given = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [*shape, 3])
    maps = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names
    ]
    graph = helper.make_graph(nodes, "small", [given], maps, constants)
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


# Of the brightness, a tenth of a map's range or so.
HARMLESS = small_model([[1, 0, 0], [0, 1, 0]], [[1e-4, 1e-4]])
# The difference of two values that are nearly the same needs all of their digits.
HURT = small_model([[1, 1, 1], [1, 1, 1.001]], [[-1.0, 1.0]])


@pytest.fixture
def images(photograph):
    return [photograph(20, 20, seed) for seed in range(2)]


def in_8_bits(model):
    """How many convolutions read rounded weights."""
    rounded = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    nodes = model.graph.node
    return sum(n.op_type == "Conv" and n.input[1] in rounded for n in nodes)


def test_harmless_convolutions_are_all_rounded(images):
    found, report = quantized(HARMLESS, images)

    onnx.checker.check_model(found, full_check=True)
    assert report.in_single_precision == ()
    assert report.n_convolutions == in_8_bits(found) == 2
    assert 0 < report.error <= LIMIT
    assert "but for none" in str(report)


def test_convolutions_that_hurt_stay_as_they_were(images):
    found, report = quantized(HURT, images)

    onnx.checker.check_model(found, full_check=True)
    assert report.in_single_precision
    assert in_8_bits(found) == 2 - len(report.in_single_precision)
    measured = _error(_grids(HURT, images), _grids(found, images))
    assert measured == pytest.approx(report.error)
    assert measured <= LIMIT


def test_with_all_of_them_rounded_the_maps_would_be_wrong(images, monkeypatch):
    """The positive control of the choice."""
    monkeypatch.setattr("efficientad.deployment.quantization.LIMIT", np.inf)

    _, report = quantized(HURT, images)

    assert report.in_single_precision == ()
    assert report.error > 10 * LIMIT
