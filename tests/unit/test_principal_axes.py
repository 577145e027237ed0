"""A trained detector along its principal axes: fewer channels, the same maps."""

import numpy as np
import pytest
import torch

import efficientad
from efficientad.engines.native import NativeEngine
from efficientad.engines.pytorch import PyTorchEngine
from efficientad.errors import ModelFileError
from efficientad.inspection.opening import detector_engine
from efficientad.kernels import layers
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.training.principal_axes import (
    along_axes,
    moments,
    principal_axes,
    project,
)
from efficientad_lab.benchmark.baseline import BaselineEngine


@pytest.fixture
def vectors():
    """Those of 5 directions among 12 channels, and a little of everything."""
    torch.manual_seed(0)
    few = torch.randn(4000, 5) @ torch.randn(5, 12)
    return few + 0.01 * torch.randn(4000, 12)


def moments_of(vectors):
    return moments(vectors.T[None, :, :, None])


def test_moments_are_the_sum_of_outer_products(vectors):
    images = vectors.T.reshape(12, 8, 25, 20).transpose(0, 1)
    expected = sum(torch.outer(v, v) for v in vectors.double())

    torch.testing.assert_close(moments(images), expected, rtol=1e-5, atol=1e-2)


def test_few_axes_hold_the_sum_over_all_channels(vectors):
    axes = principal_axes([moments_of(vectors)], 5)

    along = vectors @ axes.T

    torch.testing.assert_close(
        along.square().sum(1), vectors.square().sum(1), rtol=0.02, atol=0.01
    )
    assert along.square().mean(0).diff().lt(0).all()


def test_all_axes_turn_the_descriptors_and_nothing_else(vectors):
    axes = principal_axes([moments_of(vectors)], 12)

    torch.testing.assert_close(axes @ axes.T, torch.eye(12), rtol=0, atol=1e-5)


def test_each_kind_of_image_counts_the_same_whatever_its_scale(vectors):
    torch.manual_seed(1)
    others = 1000 * torch.randn(4000, 2) @ torch.randn(2, 12)

    axes = principal_axes([moments_of(vectors), moments_of(others)], 7)

    for each in (vectors, others):
        kept = (each @ axes.T).square().sum() / each.square().sum()
        assert kept == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    "size", ["small", pytest.param("medium", marks=pytest.mark.slow)]
)
def test_a_projected_network_gives_the_projected_descriptors(size):
    torch.manual_seed(0)
    network = PatchDescriptionNetwork(size).eval()
    matrix, mean = torch.randn(16, 384), torch.randn(384)
    image = torch.rand(1, 3, 41, 41)

    narrow = PatchDescriptionNetwork(size, 16, n_hidden=384)
    reduced = project(network, narrow, matrix, mean)

    centered = network(image) - mean.view(1, -1, 1, 1)
    expected = torch.einsum("ac,bchw->bahw", matrix, centered)
    torch.testing.assert_close(reduced(image), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture(params=["small", "medium"])
def narrow_detector(request, make_detector):
    """Networks of 64 channels for the local map, and 32 for the global one."""
    return make_detector(request.param, 64, 32)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (1, 256, 256, 3), np.uint8)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(1, 3, 256, 256)


@pytest.mark.parametrize(
    "size", ["small", pytest.param("medium", marks=pytest.mark.slow)]
)
def test_along_all_axes_the_maps_are_the_same(size, make_detector, images):
    detector = make_detector(size)

    turned = along_axes(detector, [[(images, images)]], 384, 384)

    torch.testing.assert_close(
        turned.outputs(images)[0], detector.outputs(images)[0], rtol=1e-3, atol=1e-6
    )
    assert not turned.training
    assert not any(p.requires_grad for p in turned.parameters())


def test_along_few_axes_the_maps_lose_what_lies_outside_of_them(make_detector, images):
    detector = make_detector()
    other_images = images.flip(3) / 2
    both = [other_images, -other_images]
    kinds = [[(images, images)], [(image, image) for image in both]]

    few, more = (along_axes(detector, kinds, n, n // 2) for n in (64, 192))

    whole = detector.outputs(images)[0]
    shares = [
        [part / whole[name] for name, part in d.outputs(images)[0].items()]
        for d in (few, more)
    ]
    for little, much in zip(*shares, strict=True):
        assert little.min() > 0
        assert (little < much + 1e-4).all()
        assert much.max() < 1 + 1e-4
    local_share, global_share = (share.mean().item() for share in shares[1])
    assert local_share > 0.9
    assert global_share > 0.9


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, grids in found.items():
        np.testing.assert_allclose(grids, expected[name], rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(
    not layers.is_available(), reason="needs a C++ compiler for the native layers"
)
def test_native_layers_compare_few_channels_as_pytorch_does(narrow_detector, pixels):
    engine = detector_engine(narrow_detector, "native")

    assert isinstance(engine, NativeEngine)
    found = engine.run(pixels).grids
    assert_same(found, PyTorchEngine(narrow_detector).run(pixels).grids)


def test_the_plain_networks_give_the_same_maps_from_all_channels(
    narrow_detector, pixels
):
    plain = BaselineEngine(narrow_detector)

    assert plain.networks.teacher[-1].out_channels == 384
    assert plain.networks.student[-1].out_channels == 768
    expected = PyTorchEngine(narrow_detector).run(pixels).grids
    assert_same(plain.run(pixels).grids, expected)


def test_a_student_of_other_channels_than_its_teacher_is_refused(
    make_detector, joined, tmp_path
):
    detector = make_detector("small", 32, 32)
    detector.autoencoder = Autoencoder(64)
    efficientad.save(joined(detector, engine="pytorch"), tmp_path / "part.ead")

    with pytest.raises(
        ModelFileError, match="does not hold the weights of a small detector"
    ):
        efficientad.load(tmp_path / "part.ead", device="cpu")


def test_images_that_are_all_alike_give_axes_too():
    axes = principal_axes([torch.zeros(8, 8).double()], 4)

    assert axes.isfinite().all()


def test_a_detector_of_few_channels_is_saved_and_read(
    narrow_detector, joined, tmp_path
):
    efficientad.save(joined(narrow_detector), tmp_path / "part.ead")

    loaded = efficientad.load(tmp_path / "part.ead", device="cpu")

    assert loaded.detector is not None
    found = loaded.detector.state_dict()
    for name, value in narrow_detector.state_dict().items():
        assert torch.equal(found[name], value)
