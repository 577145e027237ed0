"""Descriptors along their principal axes: fewer channels, the same maps."""

import pytest
import torch

from efficientad.errors import ModelFileError
from efficientad.measurement import baseline
from efficientad.method.decision import Calibration, MapQuantiles
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.training.model_file import load, save
from efficientad.training.principal_axes import covariance, principal_axes


@pytest.fixture
def vectors():
    """Those of 5 directions among 12 channels, and a little of everything."""
    torch.manual_seed(0)
    few = torch.randn(4000, 5) @ torch.randn(5, 12)
    return few + 0.01 * torch.randn(4000, 12)


def test_covariance_is_the_mean_of_outer_products(vectors):
    expected = sum(torch.outer(v, v) for v in vectors.double()) / len(vectors)

    found = covariance([vectors[:100], vectors[100:]])

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_few_axes_hold_the_sum_over_all_channels(vectors):
    axes = principal_axes([covariance([vectors])], 5)

    along = vectors @ axes.T

    torch.testing.assert_close(
        along.square().sum(1), vectors.square().sum(1), rtol=0.02, atol=0.01
    )
    assert along.square().mean(0).diff().lt(0).all()


def test_all_axes_turn_the_descriptors_and_nothing_else(vectors):
    axes = principal_axes([covariance([vectors])], 12)

    torch.testing.assert_close(axes @ axes.T, torch.eye(12), rtol=0, atol=1e-5)


def test_each_kind_of_image_counts_the_same_whatever_its_scale(vectors):
    torch.manual_seed(1)
    others = 1000 * torch.randn(4000, 2) @ torch.randn(2, 12)

    axes = principal_axes([covariance([vectors]), covariance([others])], 7)

    for each in (vectors, others):
        kept = (each @ axes.T).square().sum() / each.square().sum()
        assert kept == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_a_projected_network_gives_the_projected_descriptors(size):
    torch.manual_seed(0)
    network = PatchDescriptionNetwork(size).eval()
    matrix, mean = torch.randn(16, 384), torch.randn(384)
    image = torch.rand(1, 3, 41, 41)

    projected = network.projected(matrix, mean)

    centred = network(image) - mean.view(1, -1, 1, 1)
    expected = torch.einsum("ac,bchw->bahw", matrix, centred)
    torch.testing.assert_close(projected(image), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture(params=["small", "medium"])
def narrow_detector(request):
    """Networks of 32 channels instead of 384."""
    torch.manual_seed(0)
    size = request.param
    return Detector(
        PatchDescriptionNetwork(size, 32, n_hidden=384),
        PatchDescriptionNetwork(size, 64, n_hidden=768),
        Autoencoder(32),
        ChannelStatistics(torch.randn(32) * 0.01, torch.rand(32) * 0.05 + 0.02),
        torch.eye(384)[:32],
    ).eval()


@pytest.fixture
def pixels(rng):
    return torch.from_numpy(rng.integers(0, 256, (1, 256, 256, 3), "uint8"))


def test_descriptors_go_back_to_the_channels(narrow_detector):
    descriptors = torch.randn(2, 32, 3, 3)

    channels = narrow_detector.in_channels(descriptors)

    assert channels.shape == (2, 384, 3, 3)
    assert torch.equal(channels[:, :32], descriptors)
    assert not channels[:, 32:].any()


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
    detector = Detector(
        PatchDescriptionNetwork("small", 32),
        PatchDescriptionNetwork("small", 48),
        Autoencoder(32),
        ChannelStatistics(torch.zeros(32), torch.ones(32)),
    )

    with pytest.raises(ModelFileError, match="48 channels of the student"):
        load(saved(detector, tmp_path / "part.ead"))


def test_images_that_are_all_alike_give_axes_too():
    axes = principal_axes([torch.zeros(8, 8).double()], 4)

    assert axes.isfinite().all()


def test_a_detector_of_few_channels_is_saved_and_read(narrow_detector, tmp_path):
    saved(narrow_detector, tmp_path / "part.ead")

    found = load(tmp_path / "part.ead").state_dict()

    for name, value in narrow_detector.state_dict().items():
        assert torch.equal(found[name], value)
