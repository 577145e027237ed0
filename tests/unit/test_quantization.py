"""Convolutions in 8 bits, on networks small enough to know which of them hurts."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper

from efficientad.deployment.engines import INPUT
from efficientad.deployment.quantization import (
    LIMIT,
    _error,
    _grids,
    _session,
    quantized,
    rounded_kernels,
)


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
    return model_of(nodes, weights)


def model_of(nodes, weights):
    constants = [
        numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()
    ]
    constants.append(numpy_helper.from_array(np.array([1]), "axis"))
    names = ["local_grid", "global_grid"]
    shape = ["batch", "height", "width"]
    given = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [*shape, 3])
    maps = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names
    ]
    graph = helper.make_graph(nodes, "small", [given], maps, constants)
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


# Of the brightness, a tenth of a map's range or so.
HARMLESS = small_model([[1, 0.3, 0], [0.2, 1, 0]], [[1e-4, 0.7e-4]])
# The difference of two values that are nearly the same needs all of their digits.
HURT = small_model([[1, 1, 1], [1, 1, 1.001]], [[-1.0, 1.0]])


def pooled_and_joined_model():
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
        helper.make_node("Squeeze", ["d", "axis"], ["local_grid"]),
        helper.make_node("Identity", ["local_grid"], ["global_grid"]),
    ]
    return model_of(nodes, weights)


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


def test_what_is_pooled_and_joined_is_rounded_with_one_scale(images):
    found, report = quantized(pooled_and_joined_model(), images)

    onnx.checker.check_model(found, full_check=True)
    assert report.in_single_precision == ()
    makers = {n.output[0]: n for n in found.graph.node}
    constants = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer}
    (join,) = (n for n in found.graph.node if n.op_type == "Concat")
    pools = [n for n in found.graph.node if n.op_type == "AveragePool"]
    read = [*join.input, *(n.input[0] for n in pools)]
    assert {makers[name].op_type for name in read} == {"DequantizeLinear"}
    (conv,) = (n for n in found.graph.node if n.name == "d")
    scales = {
        float(constants[makers[name].input[1]]) for name in [*join.input, conv.input[0]]
    }
    assert len(scales) == 1
    # Nothing behind the last convolution is rounded.
    (squeeze,) = (n for n in found.graph.node if n.op_type == "Squeeze")
    assert squeeze.input[0] == "d"


@given(
    arrays(
        np.float64,
        array_shapes(min_dims=4, max_dims=4, max_side=5),
        elements=st.floats(-3, 3, width=32),
    )
)
def test_rounded_kernels_keep_their_sums(weights):
    multiples, scales = rounded_kernels(weights)

    steps = scales.astype(np.float64)[:, None, None, None]
    found = multiples * steps
    # Each weight goes to one of its two neighbours, the largest one to itself.
    assert (np.abs(found - weights) <= steps * (1 + 1e-6)).all()
    assert np.abs(multiples).max() <= 63
    lost = np.abs((found - weights).sum((2, 3)))
    assert (lost <= 0.5 * scales[:, None] * (1 + 1e-5) + 1e-9).all()


def test_with_a_covariance_the_outputs_hardly_vary(rng):
    """Patches are a brightness, a slope and little else: no single weight counts."""
    rows, columns = np.indices((4, 4)).reshape(2, 16)
    brightness, down, across = 20 * rng.normal(size=(3, 2000, 1))
    noise = 0.3 * rng.normal(size=(2000, 16))
    patches = brightness + down * rows + across * columns + noise
    weights = rng.normal(size=(8, 1, 4, 4))

    def variance(multiples, scales):
        lost = weights - multiples * scales[:, None, None, None]
        return (patches @ lost.reshape(8, -1).T).var()

    exact = np.abs(weights).max((1, 2, 3)) / 63
    nearest = np.round(weights / exact[:, None, None, None]), exact
    with_sums = rounded_kernels(weights)
    with_outputs = rounded_kernels(weights, np.cov(patches.T, bias=True))

    assert variance(*with_outputs) < variance(*nearest) / 2
    assert variance(*with_outputs) < variance(*with_sums)


def test_what_the_means_change_is_in_the_bias(images):
    """Bright pixels everywhere: rounded weights, yet the mean output is the same."""
    model = pooled_and_joined_model()
    bias = np.array([0.3, -0.2, 0.1, 50.0], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    (node,) = (n for n in model.graph.node if n.name == "first_a")
    node.input.append("bias")
    model.graph.output.append(onnx.ValueInfoProto(name="first_a"))
    bright = [np.maximum(image, 200) for image in images]

    found, _ = quantized(model, bright)

    def means(graph):
        session = _session(graph)
        values = [session.run(["first_a"], {INPUT: i[np.newaxis]})[0] for i in bright]
        return np.mean(values, (0, 1, 3, 4))

    np.testing.assert_allclose(means(found), means(model), rtol=2e-3, atol=0.3)


def test_rounding_to_the_nearest_would_not_keep_them():
    """The positive control: sixteen weights a little above half a step."""
    weights = np.full((1, 1, 4, 4), 0.51)
    weights[0, 0, 0, 0] = 63

    multiples, scales = rounded_kernels(weights)

    assert scales == pytest.approx(1)
    assert np.round(weights).sum() - weights.sum() > 7
    assert abs(multiples.sum() - weights.sum()) <= 0.5
