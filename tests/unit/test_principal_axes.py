"""A trained detector along its principal axes: fewer channels, the same maps."""

import pytest
import torch

from efficientad.errors import ModelFileError
from efficientad.method.decision import Calibration, MapQuantiles
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.model_files.detector_file import load, save
from efficientad.training.principal_axes import (
    along_axes,
    moments,
    principal_axes,
    project,
)
from efficientad_lab.benchmark import baseline


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


@pytest.mark.parametrize("size", ["small", "medium"])
def test_a_projected_network_gives_the_projected_descriptors(size):
    torch.manual_seed(0)
    network = PatchDescriptionNetwork(size).eval()
    matrix, mean = torch.randn(16, 384), torch.randn(384)
    image = torch.rand(1, 3, 41, 41)

    narrow = PatchDescriptionNetwork(size, 16, n_hidden=384)
    reduced = project(network, narrow, matrix, mean)

    centred = network(image) - mean.view(1, -1, 1, 1)
    expected = torch.einsum("ac,bchw->bahw", matrix, centred)
    torch.testing.assert_close(reduced(image), expected, rtol=1e-3, atol=1e-4)


def random_detector(size, n_local, n_global):
    torch.manual_seed(0)
    std = torch.rand(n_local) * 0.05 + 0.02
    return Detector(
        PatchDescriptionNetwork(size, n_local, n_hidden=384),
        PatchDescriptionNetwork(size, n_local + n_global, n_hidden=768),
        Autoencoder(n_global),
        ChannelStatistics(torch.randn(n_local) * 0.01, std),
    ).eval()


@pytest.fixture(params=["small", "medium"])
def narrow_detector(request):
    """Networks of 64 channels for the local map, and 32 for the global one."""
    return random_detector(request.param, 64, 32)


@pytest.fixture
def pixels(rng):
    return torch.from_numpy(rng.integers(0, 256, (1, 256, 256, 3), "uint8"))


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(1, 3, 256, 256)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_along_all_axes_the_maps_are_the_same(size, images):
    detector = random_detector(size, 384, 384)

    turned = along_axes(detector, [[images]], 384, 384)

    for one, other in zip(
        turned.raw_maps(images), detector.raw_maps(images), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert not turned.training
    assert not any(p.requires_grad for p in turned.parameters())


def test_along_few_axes_the_maps_lose_what_lies_outside_of_them(images):
    detector = random_detector("small", 384, 384)
    other_images = images.flip(3) / 2
    kinds = [[images], [other_images, -other_images]]

    few, more = (along_axes(detector, kinds, n, n // 2) for n in (64, 192))

    whole = detector.raw_maps(images)
    shares = [
        [part / all_ for part, all_ in zip(d.raw_maps(images), whole, strict=True)]
        for d in (few, more)
    ]
    for little, much in zip(*shares, strict=True):
        assert little.min() > 0
        assert (little < much + 1e-4).all()
        assert much.max() < 1 + 1e-4
    local_share, global_share = (share.mean().item() for share in shares[1])
    assert local_share > 0.9
    assert global_share > 0.9


def test_native_layers_compare_few_channels_as_pytorch_does(narrow_detector, pixels):
    found = narrow_detector.judged_maps(pixels)
    narrow_detector.runtime = "pytorch"

    for one, other in zip(found, narrow_detector.judged_maps(pixels), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_the_plain_networks_give_the_same_maps_from_all_channels(
    narrow_detector, pixels
):
    narrow_detector.runtime = "pytorch"
    plain = baseline.baseline(narrow_detector)

    assert plain.teacher[-1].out_channels == 384
    assert plain.student[-1].out_channels == 768
    for one, other in zip(
        baseline.raw_maps(plain, pixels),
        narrow_detector.judged_maps(pixels),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def saved(detector, path):
    quantiles = MapQuantiles(0.0, 1.0)
    detector.calibration = Calibration(quantiles, quantiles, (0.1,))
    save(detector, path)
    return path


def test_a_student_of_other_channels_than_its_teacher_is_refused(tmp_path):
    detector = random_detector("small", 32, 32)
    detector.autoencoder = Autoencoder(64)

    with pytest.raises(ModelFileError, match="64 channels of the student"):
        load(saved(detector, tmp_path / "part.ead"))


def test_images_that_are_all_alike_give_axes_too():
    axes = principal_axes([torch.zeros(8, 8).double()], 4)

    assert axes.isfinite().all()


def test_a_detector_of_few_channels_is_saved_and_read(narrow_detector, tmp_path):
    saved(narrow_detector, tmp_path / "part.ead")

    found = load(tmp_path / "part.ead").state_dict()

    for name, value in narrow_detector.state_dict().items():
        assert torch.equal(found[name], value)
