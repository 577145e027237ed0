"""Algorithm 1, as printed and in its fast form, equals the reference loop body."""

import numpy as np
import pytest
import torch
from torch import nn

from efficientad.kernels.winograd import FAST
from efficientad.method.networks import PLAIN
from efficientad.natural_images.pictures import open_pretraining_images
from efficientad.training.config import PAPER
from efficientad.training.paper_step import (
    PaperStep,
    algorithm_1,
    fast_losses,
    vary_color,
)
from efficientad.training.step import Material
from efficientad_lab.benchmark.random_detector import random_detector
from efficientad_lab.benchmark.reference_step import reference_loss, reference_networks

# Shares of a gradient's norm. In an untrained autoencoder hardly any of it passes the
# bottleneck, and what does is mostly rounding.
GRADIENT_TOLERANCES = {"student": 1e-3, "autoencoder": 0.2}
CPU = torch.device("cpu")
FORMS = [algorithm_1, fast_losses]


def convolutions(network):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)]


@pytest.fixture(params=[PLAIN, FAST])
def detector(request):
    made = random_detector("small")
    for network in (made.teacher, made.student, made.autoencoder):
        network.operations = request.param
    for network in (made.student, made.autoencoder):
        network.requires_grad_(requires_grad=True)
    return made.train()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), np.uint8)


@pytest.fixture(scope="module")
def drawn(pixels):
    natural = open_pretraining_images(None)
    material = Material(random_detector("small").teacher, pixels, natural, CPU)
    return PaperStep(material, PAPER).draw(np.random.default_rng(7))


@pytest.fixture(scope="module")
def expected(drawn):
    """Loss and networks, with their gradients, of the plain loop body."""
    detector, networks = random_detector("small"), reference_networks("small")
    for name in ("teacher", "student", "autoencoder"):
        pairs = zip(
            convolutions(getattr(networks, name)),
            convolutions(getattr(detector, name)),
            strict=True,
        )
        for plain, ours in pairs:
            plain.load_state_dict(ours.state_dict())
    networks = networks._replace(mean=detector.teacher_mean, std=detector.teacher_std)
    torch.manual_seed(5)
    loss = reference_loss(networks, *drawn)
    loss.backward()
    return loss.item(), networks


def gradients(network):
    return [p.grad for c in convolutions(network) for p in (c.weight, c.bias)]


@pytest.mark.parametrize("form", FORMS)
def test_losses_and_gradients_are_those_of_the_loop_body(
    detector, expected, drawn, form
):
    torch.manual_seed(5)
    loss = form(detector, drawn, PAPER.p_hard).total()
    loss.backward()

    of_loop, networks = expected
    assert loss.item() == pytest.approx(of_loop, rel=1e-5)
    for name, tolerance in GRADIENT_TOLERANCES.items():
        ours, wanted = (gradients(getattr(n, name)) for n in (detector, networks))
        for found, grad in zip(ours, wanted, strict=True):
            assert (found - grad).norm() <= tolerance * grad.norm()


@pytest.mark.parametrize("has_penalty", [True, False])
def test_each_loss_is_the_same_in_both_forms(detector, drawn, has_penalty):
    drawn = drawn if has_penalty else drawn._replace(natural=None)
    torch.manual_seed(5)
    expected = algorithm_1(detector, drawn, PAPER.p_hard)
    torch.manual_seed(5)
    found = fast_losses(detector, drawn, PAPER.p_hard)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert (found.penalty > 0) == has_penalty


def test_a_step_draws_an_image_its_variation_and_a_natural_image(pixels, detector):
    natural = open_pretraining_images(None)
    step = PaperStep(Material(detector.teacher, pixels, natural, CPU), PAPER)
    drawn = step.draw(np.random.default_rng(7))

    rng = np.random.default_rng(7)
    chosen = torch.from_numpy(pixels[rng.integers(0, 3, 1)])
    wanted = (
        chosen,
        vary_color(chosen, rng),
        torch.from_numpy(natural.draw(rng)[None]),
    )
    for found, images in zip(drawn, wanted, strict=True):
        mean = torch.tensor((0.485, 0.456, 0.406)) * 255
        std = torch.tensor((0.229, 0.224, 0.225)) * 255
        expected = ((images.float() - mean) / std).permute(0, 3, 1, 2)
        torch.testing.assert_close(found, expected)
