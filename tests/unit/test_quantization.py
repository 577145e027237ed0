"""Convolutions in 8 bits, on networks small enough to know which of them hurts."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper

from efficientad.deployment.engines import GRID_OUTPUTS, INPUT
from efficientad.deployment.equalization import equalized
from efficientad.deployment.graph import RAW_GRIDS
from efficientad.deployment.quantization import (
    LIMIT,
    _errors,
    _giving,
    _grids,
    _noise,
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
    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["pixels", "first"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], name="c"),
    ]
    return model_of(nodes, weights)


def model_of(nodes, weights):
    """End the nodes with both maps of their last result."""
    last, nodes = nodes[-1].output[0], list(nodes)
    for raw, grid in zip(RAW_GRIDS, GRID_OUTPUTS, strict=True):
        nodes.append(helper.make_node("Squeeze", [last, "axis"], [raw]))
        nodes.append(helper.make_node("Identity", [raw], [grid]))
    constants = [
        numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()
    ]
    constants.append(numpy_helper.from_array(np.array([1]), "axis"))
    shape = ["batch", "height", "width"]
    given = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [*shape, 3])
    maps = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in GRID_OUTPUTS
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
    measured = _errors(_grids(HURT, images), _grids(found, images)).max()
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
    squeezes = [n for n in found.graph.node if n.op_type == "Squeeze"]
    assert [n.input[0] for n in squeezes] == ["d", "d"]


@given(
    arrays(
        np.float64,
        array_shapes(min_dims=4, max_dims=4, max_side=5),
        elements=st.floats(-3, 3, width=32),
    )
)
def test_values_that_have_nothing_in_common_let_each_weight_go_to_the_nearest(weights):
    multiples, scales = rounded_kernels(weights, np.eye(weights[0].size))

    steps = scales.astype(np.float64)[:, None, None, None]
    assert np.abs(multiples).max() <= 63
    assert (np.abs(multiples * steps - weights) <= steps * (0.5 + 1e-6)).all()


def test_what_varies_together_makes_the_outputs_hardly_vary(rng):
    """Patches are a brightness, a slope and little else: no single weight counts."""
    rows, columns = np.indices((4, 4)).reshape(2, 16)
    brightness, down, across = 20 * rng.normal(size=(3, 2000, 1))
    noise = 0.3 * rng.normal(size=(2000, 16))
    patches = brightness + down * rows + across * columns + noise
    weights = rng.normal(size=(8, 1, 4, 4))

    def variance(multiples, scales):
        lost = weights - multiples * scales[:, None, None, None]
        return (patches @ lost.reshape(8, -1).T).var()

    covariance = np.cov(patches.T, bias=True)
    nearest = rounded_kernels(weights, np.eye(16))
    together = rounded_kernels(weights, covariance)

    assert variance(*together) < variance(*nearest) / 2


def test_it_is_the_nearest_plane_however_many_weights_are_added_up_at_once(
    rng, monkeypatch
):
    """Against Babai's definition, one weight after the other."""
    weights = rng.normal(size=(3, 10, 1, 1))
    patches = rng.normal(size=(40, 10)) @ rng.normal(size=(10, 10))
    covariance = np.cov(patches.T)
    monkeypatch.setattr("efficientad.deployment.quantization._BLOCK", 4)

    multiples, scales = rounded_kernels(weights, covariance)

    basis = np.linalg.cholesky(covariance).T
    for output, scale in zip(range(3), scales.astype(float), strict=True):
        exact = weights[output].ravel() / scale
        target = basis @ exact
        for index in reversed(range(10)):
            left = target[index] - basis[index, index + 1 :] @ (
                multiples[output].ravel()[index + 1 :].astype(float)
            )
            wanted = np.clip(np.round(left / basis[index, index]), -63, 63)
            assert multiples[output].ravel()[index] == wanted


def test_what_the_means_change_is_in_the_bias(images, monkeypatch):
    """Bright pixels everywhere: rounded weights, yet the mean output is the same."""
    model = pooled_and_joined_model()
    bias = np.array([0.3, -0.2, 0.1, 50.0], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    (node,) = (n for n in model.graph.node if n.name == "first_a")
    node.input.append("bias")
    model.graph.output.append(onnx.ValueInfoProto(name="first_a"))
    bright = [np.maximum(image, 200) for image in images]

    monkeypatch.setattr(
        "efficientad.deployment.quantization.equalized", lambda *given: given
    )

    found, _ = quantized(model, bright)

    def means(graph):
        session = _session(graph)
        values = [session.run(["first_a"], {INPUT: i[np.newaxis]})[0] for i in bright]
        return np.mean(values, (0, 1, 3, 4))

    np.testing.assert_allclose(means(found), means(model), rtol=2e-3, atol=0.3)


def channel_maxima(model, names, images):
    session = _session(_giving(model, names))
    values = [session.run(names, {INPUT: i[np.newaxis]}) for i in images]
    of_images = zip(*values, strict=True)
    return {
        name: np.max([v[0].max((1, 2)) for v in each], axis=0).astype(float)
        for name, each in zip(names, of_images, strict=True)
    }


JOINED = ["first_b", "second_b", "first_c", "second_c", "joined"]


def test_equalized_channels_share_the_bytes_and_the_maps_stay(images):
    model = pooled_and_joined_model()
    largest = channel_maxima(model, JOINED, images)

    found, promised = equalized(model, largest)

    np.testing.assert_allclose(
        _grids(found, images), _grids(model, images), rtol=1e-4, atol=1e-6
    )
    measured = channel_maxima(found, JOINED, images)
    for name in JOINED:
        np.testing.assert_allclose(measured[name], promised[name], rtol=1e-4)
    # As loud as what they are joined to, where that is louder.
    for name in ("first_b", "second_b"):
        limit = max(largest[name].max(), largest["joined"].max())
        gained = promised[name] / largest[name]
        wanted = np.clip(np.sqrt(limit / largest[name]), 1, 4)
        np.testing.assert_allclose(gained, wanted)
        assert (promised[name] <= limit * (1 + 1e-6)).all()


def test_a_silent_channel_is_equalized_to_a_number(images):
    model = pooled_and_joined_model()
    largest = channel_maxima(model, JOINED, images)
    silent = {
        name: np.where(np.arange(len(v)) == 1, 0, v) for name, v in largest.items()
    }

    found, promised = equalized(model, silent)

    np.testing.assert_allclose(
        _grids(found, images), _grids(model, images), rtol=1e-4, atol=1e-6
    )
    assert all(np.isfinite(each).all() for each in promised.values())

    found, _ = equalized(model, {name: 0 * each for name, each in largest.items()})
    np.testing.assert_array_equal(_grids(found, images), _grids(model, images))


def test_what_something_else_reads_has_no_factors(images):
    """A factor would go through a square and not come out again."""
    model = small_model([[1, 0.3, 0], [0.02, 0.1, 0]], [[1e-4, 0.7e-4]])
    model.graph.node.append(helper.make_node("Mul", ["b", "b"], ["squares"]))
    model.graph.output.append(onnx.ValueInfoProto(name="squares"))
    largest = channel_maxima(model, ["b"], images)

    found, promised = equalized(model, largest)

    assert largest["b"][0] > 2 * largest["b"][1]
    np.testing.assert_array_equal(promised["b"], largest["b"])
    assert found.graph.initializer == model.graph.initializer


def test_noise_is_what_the_quieter_half_gains(rng):
    exact = rng.uniform(1, 3, (4, 2, 8, 8)).astype(np.float32)
    is_quiet = exact <= np.median(exact, (0, 2, 3), keepdims=True)
    gain = np.array([0.25, -0.5], np.float32)[:, np.newaxis, np.newaxis]

    found = _noise(exact, exact + np.where(is_quiet, gain, 7))

    assert found == pytest.approx(dict(zip(RAW_GRIDS, [0.25, -0.5], strict=True)))


@pytest.mark.parametrize("amount", [3.0, 0.0])
def test_what_rounding_adds_everywhere_is_taken_off(images, monkeypatch, amount):
    """Maps that are raised by as much come out as they were; others are let alone."""
    module = "efficientad.deployment.quantization"

    def raised(model, *_):
        found = onnx.ModelProto()
        found.CopyFrom(model)
        (node,) = (n for n in found.graph.node if n.name == "c")
        bias = numpy_helper.from_array(np.array([amount], np.float32), "raised")
        found.graph.initializer.append(bias)
        node.input.append("raised")
        return found

    monkeypatch.setattr(f"{module}._rounded", raised)

    found, report = quantized(HARMLESS, images)

    np.testing.assert_allclose(_grids(found, images), _grids(HARMLESS, images), 1e-4)
    assert report.error < 1e-3 < LIMIT
    is_subtracted = any(n.op_type == "Sub" for n in found.graph.node)
    assert is_subtracted == (amount > 0)
