"""Factors of hidden channels, which change what is rounded and nothing else."""

import numpy as np
import onnx
import pytest
from tests.small_graphs import maps_of, pooled_and_joined_model, small_model

from efficientad.exports.equalization import equalized
from efficientad.exports.weight_rounding import inner_values


@pytest.fixture
def images(photograph):
    return [photograph(20, 20, seed) for seed in range(2)]


def channel_maxima(model, names, images):
    values = list(inner_values(model, names, images))
    return {
        name: np.max([v[name].max((1, 2)) for v in values], axis=0).astype(float)
        for name in names
    }


JOINED = ["first_b", "second_b", "first_c", "second_c", "joined"]


def test_equalized_channels_share_the_bytes_and_the_maps_stay(images):
    model = pooled_and_joined_model()
    largest = channel_maxima(model, JOINED, images)

    found, promised = equalized(model, largest)

    np.testing.assert_allclose(
        maps_of(found, images), maps_of(model, images), rtol=1e-4, atol=1e-6
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
        maps_of(found, images), maps_of(model, images), rtol=1e-4, atol=1e-6
    )
    assert all(np.isfinite(each).all() for each in promised.values())

    found, _ = equalized(model, {name: 0 * each for name, each in largest.items()})
    np.testing.assert_array_equal(maps_of(found, images), maps_of(model, images))


def test_what_something_else_reads_has_no_factors(images):
    """A factor would go through a square and not come out again."""
    model = small_model([[1, 0.3, 0], [0.02, 0.1, 0]], [[1e-4, 0.7e-4]])
    model.graph.node.append(onnx.helper.make_node("Mul", ["b", "b"], ["squares"]))
    model.graph.output.append(onnx.ValueInfoProto(name="squares"))
    largest = channel_maxima(model, ["b"], images)

    found, promised = equalized(model, largest)

    assert largest["b"][0] > 2 * largest["b"][1]
    np.testing.assert_array_equal(promised["b"], largest["b"])
    assert found.graph.initializer == model.graph.initializer
