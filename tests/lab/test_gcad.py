"""GCAD: shortcuts that fade, a bottleneck, and two branches scaled on normals."""

import numpy as np
import pytest
import torch
from tests.contracts.engine_checks import noise

from efficientad.errors import ConfigError
from efficientad_lab.methods.fitting import FitConfig, fit
from efficientad_lab.methods.gcad import (
    N_GLOBAL,
    GlobalContext,
    GlobalEncoder,
    GlobalSettings,
    skip_weights,
)
from efficientad_lab.methods.method import Draw
from efficientad_lab.methods.predictors import calibrated, load_method, save_method
from efficientad_lab.methods.stages import open_stages
from efficientad_lab.methods.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_whole_unet_has_as_many_parameters_as_published():
    with torch.device("meta"):
        network = UNet(3, 2, [64, 128, 256, 512, 1024])

    n = sum(p.numel() for p in network.parameters())
    assert round(n / 1e6, 1) == 31.0


def test_a_unet_keeps_the_size():
    for is_bilinear in (False, True):
        network = UNet(3, 5, [4, 8, 8], is_bilinear=is_bilinear)
        assert tuple(network(torch.zeros(1, 3, 16, 12)).shape) == (1, 5, 16, 12)


@pytest.mark.parametrize(
    ("progress", "weights"),
    [
        (0.0, [1, 1, 1, 1, 1]),
        (0.02, [0.5, 1, 1, 1, 1]),
        (0.06, [0, 0.5, 1, 1, 1]),
        (0.2, [0, 0, 0, 0, 0]),
        (1.0, [0, 0, 0, 0, 0]),
    ],
)
def test_shortcuts_fade_one_after_the_other(progress, weights):
    torch.testing.assert_close(skip_weights(progress), torch.tensor(weights).float())


def test_without_shortcuts_all_goes_through_32_numbers():
    torch.manual_seed(0)
    encoder = GlobalEncoder()
    images = torch.randn(2, 3, 256, 256)
    seen = []
    encoder.to_bottleneck.register_forward_hook(lambda *call: seen.append(call[2]))

    with_all = encoder(images, torch.ones(5))
    torch.nn.init.zeros_(encoder.to_bottleneck.weight)
    alike = encoder(images, torch.zeros(5))
    different = encoder(images, torch.ones(5))

    assert tuple(seen[0].shape) == (2, 32, 1, 1)
    assert tuple(with_all.shape) == (2, N_GLOBAL, 64, 64)
    torch.testing.assert_close(alike[0], alike[1])
    assert not torch.allclose(different[0], different[1])


@pytest.fixture
def method():
    torch.manual_seed(0)
    settings = GlobalSettings(base=4, depth=2, n_epochs=1, batch_size=2)
    return GlobalContext([open_stages("pdn-small", (4,))], settings)


def test_the_regression_of_the_global_branch_joins_later(method):
    pixels = torch.from_numpy(noise(2))
    method.prepare(pixels)
    early = method._loss(pixels, Draw(torch.Generator(), 0.05))
    early.backward()
    parameters = [*method.global_regression.parameters()]
    assert all(p.grad is None for p in parameters)

    method._loss(pixels, Draw(torch.Generator(), 0.15)).backward()

    assert all(p.grad is not None for p in parameters)


def test_both_branches_are_scaled_by_mean_and_deviation(method, tmp_path):
    fit(method, torch.from_numpy(noise(2)), FitConfig())
    held_out = noise(3, seed=1)
    predictor = calibrated(method, held_out, {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")
    again = load_method(tmp_path / "part.method", [GlobalContext])

    found = again.predict_batch(list(held_out))

    for name in ("local", "global"):
        scaled = np.stack([one.map(name) for one in found])
        assert abs(scaled.mean()) < 0.05
        assert scaled.std() == pytest.approx(1, rel=0.05)
    assert predictor.calibration.terms == {}
    assert method.title() == "GCAD re-creation, pdn-small as teacher, U-Nets 4 x 2"


def test_another_size_of_the_input_is_refused():
    with pytest.raises(ConfigError, match="256"):
        GlobalContext([open_stages("pdn-small", (4,))], GlobalSettings(input_size=128))
