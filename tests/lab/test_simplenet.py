"""SimpleNet: its size as published, and its loss by the definition."""

import pytest
import torch
from tests.contracts.engine_checks import noise

from efficientad.errors import TrainingError
from efficientad_lab.methods import patchcore
from efficientad_lab.methods.fitting import FitConfig, fit
from efficientad_lab.methods.method import Draw
from efficientad_lab.methods.predictors import calibrated, load_method, save_method
from efficientad_lab.methods.simplenet import SimpleNet, SimpleNetSettings
from efficientad_lab.methods.stages import open_stages

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make(resnet18):
    def made(**settings):
        torch.manual_seed(0)
        small = {"input_size": 64, "dimension": 64, "n_hidden": 32, "n_epochs": 8}
        stages = open_stages(resnet18, (8, 16))
        return SimpleNet([stages], SimpleNetSettings(**{**small, **settings}))

    return made


def test_the_head_is_as_large_as_published(make):
    method = make(dimension=1536, n_hidden=1024)
    head = [*method.adaptor.parameters(), *method.discriminator.parameters()]

    assert sum(p.numel() for p in head) == pytest.approx(3.93e6, rel=3e-3)


def test_the_loss_is_zero_where_noise_is_told_from_features(make):
    """A discriminator that sees the fakes far below, and the features far above."""
    method = make(noise=10.0).eval()
    features = torch.zeros(1, 4, 64)
    torch.nn.init.zeros_(method.adaptor.weight)
    torch.nn.init.zeros_(method.adaptor.bias)
    draw = Draw(torch.Generator().manual_seed(0), 0.0)

    class Norm(torch.nn.Module):
        def forward(self, values):
            return 1 - values.norm(dim=1, keepdim=True)

    method.discriminator = torch.nn.Sequential(Norm())
    assert float(method._loss(features, draw).detach()) == 0
    method.discriminator = torch.nn.Sequential(torch.nn.Linear(64, 1))
    torch.nn.init.zeros_(method.discriminator[0].weight)
    torch.nn.init.zeros_(method.discriminator[0].bias)
    assert float(method._loss(features, draw).detach()) == 1


def test_a_training_tells_normal_features_from_noise(make, tmp_path):
    method = make(noise=1.0, n_epochs=60)
    pixels = torch.from_numpy(noise(4))
    fitted = fit(method, pixels, FitConfig())
    predictor = calibrated(method, noise(3, seed=1), {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")

    again = load_method(tmp_path / "part.method", [SimpleNet])

    (phase,) = fitted.phases
    assert phase.loss is not None
    assert phase.loss < 1
    assert method.title() == "SimpleNet, resnet18, 64 px"
    image = noise(1, seed=3)[0]
    assert again.predict(image).image_score == predictor.predict(image).image_score


def test_a_step_can_see_some_of_the_patches(make):
    method = make(patch_share=0.25)
    seen = []
    method.adaptor.register_forward_hook(lambda *call: seen.append(len(call[2])))
    features = torch.randn(2, 64, 64)

    method._loss(features, Draw(torch.Generator().manual_seed(0), 0.0))

    assert seen == [32]
    assert method.title() == "SimpleNet, resnet18, 64 px, 0.25 of the patches"


def test_features_that_do_not_fit_into_memory_are_refused(make, monkeypatch):
    monkeypatch.setattr(patchcore, "free_bytes", lambda: 2**10)

    with pytest.raises(TrainingError, match="GiB are free"):
        fit(make(), torch.from_numpy(noise(4)), FitConfig())
