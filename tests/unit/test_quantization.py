"""Convolutions in 8 bits, on networks small enough to know what rounding does."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.small_graphs import maps_of, pooled_and_joined_model, small_model

from efficientad.engines.graph_outputs import GRID_OUTPUTS, RAW_OUTPUTS
from efficientad.errors import ExportMismatchError
from efficientad.exports.quantization import _noise, never_negative, quantized
from efficientad.exports.weight_rounding import inner_values

# Of the brightness, a tenth of a map's range or so.
HARMLESS = small_model([[1, 0.3, 0], [0.2, 1, 0]], [[1e-4, 0.7e-4]])
# The difference of two values that are nearly the same needs all of their digits.
HURT = small_model([[1, 1, 1], [1, 1, 1.001]], [[-1.0, 1.0]])
# A tenth of the distance between the quantiles of normal pixels.
LIMIT = 0.01


@pytest.fixture
def images(photograph):
    return [photograph(20, 20, seed) for seed in range(2)]


def in_8_bits(model):
    """How many convolutions read rounded weights."""
    rounded = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    nodes = model.graph.node
    return sum(n.op_type == "Conv" and n.input[1] in rounded for n in nodes)


def error_of(found, exact, images):
    """Return the root mean square error of the worse map."""
    squares = (maps_of(found, images) - maps_of(exact, images)) ** 2
    return np.sqrt(squares.mean((0, 2, 3)).max())


def test_harmless_convolutions_are_rounded_and_the_maps_stay_near(images):
    found = quantized(HARMLESS, images)

    onnx.checker.check_model(found, full_check=True)
    assert in_8_bits(found) == 2
    assert 0 < error_of(found, HARMLESS, images) < LIMIT


def test_a_graph_that_8_bits_would_hurt_is_refused(images):
    with pytest.raises(ExportMismatchError, match="8 bits may change the maps"):
        quantized(HURT, images)


def test_a_difference_of_values_that_are_nearly_the_same_is_lost(images, monkeypatch):
    """The positive control of the limit."""
    monkeypatch.setattr("efficientad.exports.quantization.LIMIT", np.inf)
    found = quantized(HURT, images)

    assert error_of(found, HURT, images) > 10 * LIMIT


def test_what_is_pooled_and_joined_is_rounded_with_one_scale(images):
    found = quantized(pooled_and_joined_model(), images)

    onnx.checker.check_model(found, full_check=True)
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


@pytest.mark.parametrize("has_bias", [True, False])
def test_what_the_means_change_is_in_the_bias(images, monkeypatch, has_bias):
    """Bright pixels everywhere: rounded weights, yet the mean output is the same."""
    model = pooled_and_joined_model()
    if has_bias:
        bias = np.array([0.3, -0.2, 0.1, 50.0], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
        (node,) = (n for n in model.graph.node if n.name == "first_a")
        node.input.append("bias")
    bright = [np.maximum(image, 200) for image in images]

    monkeypatch.setattr(
        "efficientad.exports.quantization.equalized", lambda *given: given
    )

    found = quantized(model, bright)

    def means(graph):
        values = inner_values(graph, ["first_a"], bright)
        return np.mean([of_image["first_a"] for of_image in values], (0, 2, 3))

    np.testing.assert_allclose(means(found), means(model), rtol=2e-3, atol=0.3)


def test_noise_is_what_the_quieter_half_gains(rng):
    exact = rng.uniform(1, 3, (4, 2, 8, 8)).astype(np.float32)
    is_quiet = exact <= np.median(exact, (0, 2, 3), keepdims=True)
    gain = np.array([0.25, -0.5], np.float32)[:, np.newaxis, np.newaxis]

    found = _noise(exact, exact + np.where(is_quiet, gain, 7))

    assert found == pytest.approx(
        dict(zip(RAW_OUTPUTS.values(), [0.25, -0.5], strict=True))
    )


@pytest.mark.parametrize("amount", [0.02, 0.0])
def test_what_rounding_adds_everywhere_is_taken_off(images, monkeypatch, amount):
    """Maps that are raised by as much come out as they were; others are let alone.

    A tenth of what there was stays in any case.
    """
    module = "efficientad.exports.quantization"

    def raised(model, *_):
        found = onnx.ModelProto()
        found.CopyFrom(model)
        (node,) = (n for n in found.graph.node if n.name == "c")
        bias = numpy_helper.from_array(np.array([amount], np.float32), "raised")
        found.graph.initializer.append(bias)
        node.input.append("raised")
        return found

    monkeypatch.setattr(f"{module}.rounded_graph", raised)

    found = quantized(HARMLESS, images)

    exact = maps_of(HARMLESS, images)
    expected = np.maximum(exact, 0.1 * (exact + amount))
    # Of the raw maps as well: engines read these, and Python makes a score of them.
    for outputs in (GRID_OUTPUTS, RAW_OUTPUTS):
        np.testing.assert_allclose(maps_of(found, images, outputs), expected, rtol=1e-4)
    is_subtracted = any(n.op_type == "Sub" for n in found.graph.node)
    assert is_subtracted == (amount > 0)


@pytest.mark.parametrize("level", [0, 201, 255])
def test_images_that_show_nothing_can_be_rounded_on(level):
    """A gray card, a lens cap: nothing varies under any kernel."""
    images = [np.full((20, 20, 3), level, np.uint8)] * 8
    model = pooled_and_joined_model()

    found = quantized(model, images)

    exact = maps_of(model, images)
    np.testing.assert_allclose(maps_of(found, images), exact, rtol=0.05, atol=1e-3)


def test_what_is_joined_with_something_negative_is_not_in_bytes():
    model = pooled_and_joined_model()
    assert {"joined", "first_b", "first_c"} < set(never_negative(model))

    for wrong in (0, 1):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        (join,) = (n for n in changed.graph.node if n.op_type == "Concat")
        join.input[wrong] = "first_a"
        assert "joined" not in never_negative(changed)
