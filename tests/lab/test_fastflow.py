"""FastFlow: sizes as published, and a flow that is what a flow must be."""

import math

import pytest
import torch
from tests.contracts.engine_checks import check_engine, noise

from efficientad_lab.methods.fastflow import (
    FastFlow,
    FastFlowSettings,
    Flow,
    FlowStep,
)
from efficientad_lab.methods.fitting import FitConfig, fit
from efficientad_lab.methods.method import Draw
from efficientad_lab.methods.predictors import calibrated, load_method, save_method
from efficientad_lab.methods.stages import open_stages

pytestmark = pytest.mark.usefixtures("one_thread")


def n_convolution_weights(channels, kernels):
    settings = FastFlowSettings(kernels=kernels)
    with torch.device("meta"):
        flows = [Flow(n, settings, torch.Generator("cpu")) for n in channels]
    return sum(p.numel() for flow in flows for p in flow.parameters() if p.ndim == 4)


@pytest.mark.parametrize(
    ("channels", "kernels", "millions"),
    [
        ((256, 512, 1024), (3, 1), 41.29),
        ((64, 128, 256), (3, 1), 2.58),
        ((64, 128, 256), (3,), 4.64),
    ],
)
def test_flows_have_as_many_weights_as_published(channels, kernels, millions):
    assert round(n_convolution_weights(channels, kernels) / 1e6, 2) == millions


def test_the_norms_have_a_value_for_each_number(resnet18):
    method = FastFlow([open_stages(resnet18, (4, 8, 16))], FastFlowSettings())

    n = sum(p.numel() for p in method.norms.parameters())
    assert n == 2 * (64 * 64**2 + 128 * 32**2 + 256 * 16**2)
    assert round(n / 1e6, 2) == 0.92


def test_the_determinant_is_that_of_autograd():
    torch.manual_seed(0)
    settings = FastFlowSettings(n_steps=3)
    flow = Flow(4, settings, torch.Generator().manual_seed(1)).double()
    for name, parameter in flow.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.normal_(parameter, 9, 1)
    features = torch.randn(1, 4, 2, 3, dtype=torch.float64)

    def flat(values):
        return flow(values.view(1, 4, 2, 3))[0].flatten()

    jacobian = torch.autograd.functional.jacobian(flat, features.flatten())
    _, determinant = flow(features)

    torch.testing.assert_close(determinant[0], torch.linalg.slogdet(jacobian)[1])


def test_a_step_can_be_inverted():
    torch.manual_seed(0)
    step = FlowStep(6, 3, 3, torch.Generator().manual_seed(1))
    features = torch.randn(2, 6, 4, 4)

    changed, _ = step(features)

    undone = torch.empty_like(changed)
    undone[:, step.permutation] = changed
    first = undone[:, :3]
    torch.testing.assert_close(first, features[:, :3])
    slopes, shifts = (0.1 * step.convolutions(first)).chunk(2, 1)
    second = (undone[:, 3:] - shifts) * torch.exp(-2 * torch.tanh(slopes))
    torch.testing.assert_close(second, features[:, 3:])


def test_channels_begin_with_a_scale_of_one():
    step = FlowStep(2, 1, 1, torch.Generator())
    scale = 0.1 * torch.nn.functional.softplus(step.scale, beta=0.5)

    torch.testing.assert_close(scale, torch.ones(2))
    assert math.isclose(float(step.scale[0].detach()), 9.986, abs_tol=1e-3)


def test_a_short_training_lowers_the_loss_and_the_file_holds_it(resnet18, tmp_path):
    settings = FastFlowSettings(input_size=64, n_steps=2, n_epochs=6, batch_size=2)
    torch.manual_seed(0)
    method = FastFlow([open_stages(resnet18, (4, 8, 16))], settings)
    pixels = torch.from_numpy(noise(4))
    (phase,) = method.phases(pixels)
    draw = Draw(torch.Generator(), 0.0)
    with torch.no_grad():
        before = float(method._loss(phase.inputs, draw))
    fit(method, pixels, FitConfig())
    with torch.no_grad():
        after = float(method._loss(phase.inputs, draw))
    predictor = calibrated(method, noise(3, seed=1), {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")

    again = load_method(tmp_path / "part.method", [FastFlow])

    assert after < before
    assert method.title() == "FastFlow, resnet18, kernels 3/1"
    check_engine(again.engine)
    image = noise(1, seed=3)[0]
    assert again.predict(image).image_score == predictor.predict(image).image_score
