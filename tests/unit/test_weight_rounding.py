"""Weights in 8 bits that keep what a convolution gives."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch.nn import functional

from efficientad.exports.weight_rounding import (
    _Moments,
    _Windows,
    rounded_kernels,
)


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
    monkeypatch.setattr("efficientad.exports.weight_rounding._BLOCK", 4)

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


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (1, 2)])
def test_patches_are_what_a_convolution_multiplies(rng, stride, padding):
    values = rng.uniform(size=(3, 9, 11)).astype(np.float32)
    weights = rng.normal(size=(5, 3, 4, 4))
    node = onnx.helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=[stride] * 2, pads=[padding] * 4
    )

    patches = _Windows.of(node, weights).some(values, rng)

    given, kernels = torch.from_numpy(values)[None], torch.from_numpy(weights).float()
    expected = functional.conv2d(given, kernels, stride=stride, padding=padding)
    found = patches @ weights.reshape(5, -1).T
    assert found.shape == (expected[0, 0].numel(), 5)
    # The places are drawn in any order.
    np.testing.assert_allclose(
        np.sort(found, axis=0),
        np.sort(expected[0].flatten(1).T.numpy(), axis=0),
        rtol=1e-4,
        atol=1e-4,
    )


def test_moments_are_those_of_all_patches_however_small_they_vary(rng):
    """Far from zero, varying in the last digits: sums about zero would cancel."""
    parts = [1000 + 1e-2 * rng.normal(size=(500, 6)) for _ in range(4)]
    parts = [part.astype(np.float32) for part in parts]
    moments = _Moments()
    for part in parts:
        moments.add(part)

    mean, covariance = moments.mean_and_covariance(noise=0.0)

    every = np.concatenate(parts).astype(np.float64)
    shrunk = 6 / (6 + 2000)
    exact = np.cov(every.T, bias=True)
    wanted = (1 - shrunk) * exact + shrunk * np.diag(exact).mean() * np.eye(6)
    np.testing.assert_allclose(mean, every.mean(0), rtol=1e-9)
    np.testing.assert_allclose(covariance, wanted, rtol=1e-3, atol=1e-8)
