"""Winograd convolutions against the direct ones in double precision."""

from fractions import Fraction
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from efficientad.kernels import cook_toom, native, winograd

needs_compiler = pytest.mark.skipif(
    not winograd.is_available(), reason="needs a C++ compiler for the native kernels"
)
# Share of the output's standard deviation; direct float32 is at about 1e-5.
TOLERANCE = 2e-4
LARGE_TILE_TOLERANCE = 2e-3


@pytest.mark.parametrize(("tile", "size"), winograd.FORMS)
def test_the_matrices_give_the_exact_correlation(tile, size):
    output, kernel, inputs = cook_toom.transforms(tile, size)
    n = tile + size - 1
    signal = [Fraction(3 * i * i - 7 * i + 2) for i in range(n)]
    taps = [Fraction(i * i + 1, 3) for i in range(size)]

    transformed = [
        sum(g * t for g, t in zip(kernel[j], taps, strict=True))
        * sum(b * s for b, s in zip(inputs[j], signal, strict=True))
        for j in range(n)
    ]
    result = [
        sum(a * v for a, v in zip(row, transformed, strict=True)) for row in output
    ]

    direct = [sum(signal[i + k] * taps[k] for k in range(size)) for i in range(tile)]
    assert result == direct


def error_of(actual, exact):
    return ((actual.double() - exact).abs().max() / exact.std()).item()


@needs_compiler
@settings(max_examples=15)
@given(
    size=st.sampled_from(winograd.KERNEL_SIZES),
    batch=st.integers(1, 3),
    height=st.integers(13, 31),
    width=st.integers(13, 31),
    channels=st.sampled_from([(64, 64), (64, 72), (80, 64)]),
    padding=st.integers(0, 3),
    has=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_output_and_gradients_equal_the_direct_convolution(
    size, batch, height, width, channels, padding, has, seed
):
    relu, is_large = has
    generator = torch.Generator().manual_seed(seed)
    n_in, n_out = channels
    image = torch.randn(batch, n_in, height, width, generator=generator)
    weight = torch.randn(n_out, n_in, size, size, generator=generator) / 30
    bias = torch.randn(n_out, generator=generator)
    arguments = [t.requires_grad_() for t in (image, weight, bias)]
    exact_arguments = [t.detach().double().requires_grad_() for t in arguments]

    with mock.patch.object(
        winograd, "_TILES_FOR_WEIGHTS", -10_000 if is_large else 10_000
    ):
        actual = winograd._WinogradConv2d.apply(*arguments, padding, relu)
    exact_image, exact_weight, exact_bias = exact_arguments
    exact = functional.conv2d(exact_image, exact_weight, exact_bias, padding=padding)
    if relu:
        # Decided by the result under test: a value at rounding distance from zero may
        # fall on either side.
        exact = exact * (actual.detach() > 0)
    grad = torch.randn(actual.shape, generator=generator)
    gradients = torch.autograd.grad(actual, arguments, grad)
    exact_gradients = torch.autograd.grad(exact, exact_arguments, grad.double())

    assert actual.shape == exact.shape
    tolerance = LARGE_TILE_TOLERANCE if is_large else TOLERANCE
    assert error_of(actual, exact) < tolerance
    for one, other in zip(gradients, exact_gradients, strict=True):
        assert error_of(one, other) < tolerance


@needs_compiler
def test_tiles_are_large_where_gradients_follow_and_tiles_are_many():
    seen = []
    image = torch.randn(3, 64, 126, 126, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(64, 64, 4, 4, generator=torch.Generator().manual_seed(1))
    call = winograd._call

    def noted(name, *arguments):
        seen.append(name)
        call(name, *arguments)

    with mock.patch.object(winograd, "_call", noted):
        winograd.conv2d(image, weight, None)
        winograd.conv2d(image, weight.requires_grad_(), None)
        winograd.conv2d(image[:1, :, :60, :60], weight, None)

    assert [name.removeprefix("input_transform_") for name in seen[::2]] == [
        "4_4",
        "7_4",
        "4_4",
    ]


@needs_compiler
@settings(max_examples=40)
@given(
    n=st.integers(1, 3),
    channels=st.sampled_from([8, 24, 64]),
    size=st.tuples(st.integers(2, 17), st.integers(2, 17)),
    padding=st.integers(0, 1),
    is_last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_relu_and_pooling_are_pytorchs_to_the_bit(
    n, channels, size, padding, is_last, seed
):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, channels, *size, generator=generator)
    image[0, 0, 0, 0] = 0
    if is_last:
        image = image.contiguous(memory_format=torch.channels_last)
    own, other = (image.clone().requires_grad_() for _ in range(2))

    found = winograd.relu_pool(own, padding=padding)
    expected = functional.avg_pool2d(functional.relu(other), 2, 2, padding=padding)

    grad = torch.randn(expected.shape, generator=generator)
    assert torch.equal(found, expected)
    (of_own,) = torch.autograd.grad(found, own, grad)
    (of_other,) = torch.autograd.grad(expected, other, grad)
    assert torch.equal(of_own, of_other)


@needs_compiler
def test_what_is_not_a_number_stays_so_through_relu():
    weight = torch.ones(64, 64, 3, 3)
    weight[5, 3, 1, 1] = torch.nan

    image = torch.ones(1, 64, 16, 16)
    found = winograd._WinogradConv2d.apply(image, weight, None, 0, True)  # noqa: FBT003

    assert found[:, 5].isnan().all()
    assert not found[:, 6:].isnan().any()


def test_what_is_not_a_number_stays_so_through_pooling():
    image = torch.ones(1, 8, 4, 4)
    image[0, 3, 1, 1] = torch.nan

    pooled = winograd.relu_pool(image)

    assert pooled.isnan().nonzero().tolist() == [[0, 3, 0, 0]]


def test_other_numbers_and_devices_are_pooled_by_pytorch():
    image = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))

    for other in (image, image.double(), image.expand(2, 3, 6, 6)):
        expected = functional.avg_pool2d(functional.relu(other), 2, 2)
        assert torch.equal(winograd.relu_pool(other), expected)
    assert winograd.relu_pool(image.to("meta")).shape == (1, 3, 3, 3)


@needs_compiler
@pytest.mark.parametrize("size", winograd.KERNEL_SIZES)
def test_gradients_equal_finite_differences(size):
    """The layer is linear in image, weight and bias: wide differences are exact."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    arguments = [normal(1, 64, 13, 14), normal(64, 64, size, size), normal(64)]
    leaves = [argument.clone().requires_grad_() for argument in arguments]
    output = _layer(*leaves)
    cotangent = normal(*output.shape)
    gradients = torch.autograd.grad(output, leaves, cotangent)

    for index, gradient in enumerate(gradients):
        # Partly random, partly along the gradient, so that the change is large.
        direction = normal(*gradient.shape) + gradient / gradient.std()
        ahead, behind = list(arguments), list(arguments)
        ahead[index] = arguments[index] + direction
        behind[index] = arguments[index] - direction
        difference = (_layer(*ahead) - _layer(*behind)) / 2
        expected = (cotangent.double() * difference).sum()
        change = (gradient.double() * direction).sum()
        scale = difference.norm() * cotangent.norm()

        assert abs(change - expected) < 1e-4 * scale
        assert abs(expected) > 1e-2 * scale  # so one part in a hundred is noticed


def _layer(image, weight, bias):
    padding, relu = 1, False
    return winograd._WinogradConv2d.apply(image, weight, bias, padding, relu)


@needs_compiler
def test_a_wrong_kernel_would_be_noticed():
    """Positive control of the comparison."""
    image = torch.randn(1, 64, 20, 20, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(1))
    exact = functional.conv2d(image.double(), weight.double().flip(-1))

    assert error_of(winograd.conv2d(image, weight, None), exact) > TOLERANCE


@needs_compiler
def test_large_layers_take_the_fast_way_and_others_do_not():
    image = torch.zeros(1, 64, 40, 40)
    weight = torch.zeros(64, 64, 4, 4)

    assert winograd.is_faster(image, weight, 0)
    assert not winograd.is_faster(image.double(), weight.double(), 0)
    assert not winograd.is_faster(image[:, :3], weight[:, :3], 0)
    assert not winograd.is_faster(image, torch.zeros(64, 64, 5, 5), 0)
    assert not winograd.is_faster(image[..., :8, :8], weight, 0)
    assert not winograd.is_faster(image.to("meta"), weight.to("meta"), 0)


def test_without_a_compiler_the_convolution_is_pytorchs(monkeypatch, caplog):
    monkeypatch.setattr(native, "_compiler", lambda: None)
    monkeypatch.setattr(winograd, "_library", lambda: native.load("winograd", {}))
    image, weight = torch.randn(1, 64, 40, 40), torch.randn(64, 64, 4, 4)

    result = winograd.conv2d(image, weight, None, relu=True)

    expected = functional.relu(functional.conv2d(image, weight))
    torch.testing.assert_close(result, expected)
    assert "using PyTorch's (no C++ compiler found)" in caplog.text


def test_a_failing_compiler_is_reported_in_one_line(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_compiler", lambda: "false")

    assert native.load("winograd", {}) is None
    assert [message.count("\n") for message in caplog.messages] == [0]


@needs_compiler
def test_a_cache_folder_that_cannot_be_made_is_reported(monkeypatch, tmp_path, caplog):
    (tmp_path / "efficientad").write_text("a file stands where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert native.load("winograd", {"winograd_matrices.h": ""}) is None
    assert [message.count("\n") for message in caplog.messages] == [0]
