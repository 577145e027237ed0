"""Algorithm 1 in one pass for all images equals the reference script's loop body."""

import numpy as np
import pytest
import torch
from torch import nn

from efficientad.method.inputs import normalize_images
from efficientad.natural_images.pictures import open_pretraining_images
from efficientad.training.config import PAPER
from efficientad.training.steps import PaperStep, vary_color
from efficientad_lab.benchmark.random_detector import random_detector
from efficientad_lab.benchmark.reference_step import reference_loss, reference_networks

# Of a gradient's norm. In an untrained autoencoder hardly any of it passes the
# bottleneck, and what does is mostly rounding.
GRADIENT_TOLERANCES = {"student": 1e-3, "autoencoder": 0.2}


def convolutions(network):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)]


@pytest.fixture
def detector():
    made = random_detector("small")
    for network in (made.student, made.autoencoder):
        network.requires_grad_(requires_grad=True)
    return made


@pytest.fixture
def networks(detector):
    """The plain networks with that detector's weights."""
    found = reference_networks("small")
    for name in ("teacher", "student", "autoencoder"):
        pairs = zip(
            convolutions(getattr(found, name)),
            convolutions(getattr(detector, name)),
            strict=True,
        )
        for plain, ours in pairs:
            plain.load_state_dict(ours.state_dict())
    return found._replace(mean=detector.teacher_mean, std=detector.teacher_std)


def test_losses_and_gradients_are_those_of_the_loop_body(detector, networks):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), np.uint8)
    natural = open_pretraining_images(None)

    torch.manual_seed(5)
    step = PaperStep(detector, pixels, natural, PAPER)
    loss = step.losses(np.random.default_rng(7)).total()
    loss.backward()

    rng = np.random.default_rng(7)
    image = torch.from_numpy(pixels[rng.integers(0, 3, 1)])
    augmented = vary_color(image, rng)
    drawn = torch.from_numpy(natural.draw(rng)[np.newaxis])
    torch.manual_seed(5)
    seen = [normalize_images(one) for one in (image, augmented, drawn)]
    expected = reference_loss(networks, *seen)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, tolerance in GRADIENT_TOLERANCES.items():
        pairs = zip(
            convolutions(getattr(detector, name)),
            convolutions(getattr(networks, name)),
            strict=True,
        )
        for ours, plain in pairs:
            for parameter in ("weight", "bias"):
                wanted = getattr(plain, parameter).grad
                error = (getattr(ours, parameter).grad - wanted).norm()
                assert error <= tolerance * wanted.norm()
