"""The step of preset `quick`: where the student starts, and what it learns from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientad.kernels.winograd import FAST
from efficientad.method.detector import Detector
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.natural_images.pictures import open_pretraining_images
from efficientad.training.quick import QUICK, QuickStep
from efficientad.training.step import Material

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["small", "medium"])
def networks(request):
    torch.manual_seed(0)
    teacher = PatchDescriptionNetwork(request.param, operations=FAST)
    student = PatchDescriptionNetwork(request.param, 768, operations=FAST)
    return teacher.eval().requires_grad_(requires_grad=False), student


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), np.uint8)


def step_of(teacher, pixels, natural, **numbers):
    material = Material(teacher, pixels, natural, CPU)
    return QuickStep(material, replace(QUICK, **numbers))


def test_the_student_starts_with_the_teachers_hidden_layers(networks, pixels):
    teacher, student = networks
    last = student.convolutions[-1].weight.clone()
    image = torch.rand(1, 3, 61, 61)

    step_of(teacher, pixels, None).start(student)

    with torch.no_grad():
        given = teacher.hidden(image)
        own = student.hidden(image)[:, : given.shape[1]]
    torch.testing.assert_close(own, given, atol=1e-4, rtol=1e-4)
    assert torch.equal(student.convolutions[-1].weight, last)


@pytest.mark.parametrize("n_shared", [0, 2])
def test_shared_layers_of_the_student_are_not_learned(networks, pixels, n_shared):
    teacher, _ = networks
    student = PatchDescriptionNetwork(teacher.size, 768, operations=FAST)

    step_of(teacher, pixels, None, n_shared_layers=n_shared).start(student)

    learned = [layer.weight.requires_grad for layer in student.convolutions]
    assert learned == [False] * n_shared + [True] * (len(learned) - n_shared)


@pytest.mark.parametrize("n_changes", [0, 2])
def test_the_first_image_is_shown_with_changes_and_described_as_shown(
    networks, pixels, n_changes
):
    teacher, student = networks
    step = step_of(teacher, pixels, None, n_changes=n_changes)
    detector = Detector(teacher, student, Autoencoder(), step.statistics)
    chosen = np.array([2, 0])

    shown, targets = step._shown(detector, chosen, np.random.default_rng(0))

    assert np.array_equal(shown[0], pixels[2]) == (n_changes == 0)
    assert np.array_equal(shown[1], pixels[0])
    described = detector.describe(step._material.normalized(shown))
    # The descriptors of unchanged images are kept in half precision.
    torch.testing.assert_close(targets[1], described[1], atol=0.05, rtol=0.01)
    atol = 1e-4 if n_changes else 0.05
    torch.testing.assert_close(targets[0], described[0], atol=atol, rtol=0.01)


def test_a_random_start_leaves_the_student_as_it_is(networks, pixels):
    teacher, student = networks
    before = [p.clone() for p in student.parameters()]

    step_of(teacher, pixels, None, student_start="random").start(student)

    assert all(map(torch.equal, before, student.parameters()))


@pytest.mark.parametrize("has_penalty", [True, False])
def test_a_step_has_four_losses_that_reach_both_networks(networks, pixels, has_penalty):
    teacher, student = networks
    natural = open_pretraining_images(None) if has_penalty else None
    step = step_of(teacher, pixels, natural)
    detector = Detector(teacher, student, Autoencoder(), step.statistics)

    losses = step.losses(detector, np.random.default_rng(0))
    losses.total().backward()

    assert all(torch.isfinite(loss) for loss in losses)
    assert (losses.penalty > 0) == has_penalty
    for network in (detector.student, detector.autoencoder):
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
        network.zero_grad()
