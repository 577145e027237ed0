"""The losses against slow definitions, with independent arithmetic."""

import numpy as np
import pytest
import torch

from efficientad.method.losses import (
    autoencoder_loss,
    hard_feature_loss,
    mean_square_map,
    pretraining_penalty,
    student_autoencoder_loss,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    shape = (3, 7, 5, 6)
    return tuple(torch.randn(shape, generator=generator) for _ in range(2))


def slow_hard_feature_loss(teacher, student, p_hard):
    losses = []
    for a, b in zip(teacher.double().numpy(), student.double().numpy(), strict=True):
        distances = ((a - b) ** 2).ravel()
        threshold = np.quantile(distances, p_hard)
        losses.append(distances[distances >= threshold].mean())
    return np.mean(losses)


@pytest.mark.parametrize("p_hard", [0.999, 0.99, 0.9, 0.63, 0.0])
def test_hard_feature_loss_is_the_mean_above_each_images_quantile(pair, p_hard):
    teacher, student = pair
    expected = slow_hard_feature_loss(teacher, student, p_hard)

    assert hard_feature_loss(teacher, student, p_hard).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_hard_feature_loss_is_taken_image_by_image(pair):
    teacher, student = pair
    alone = [
        hard_feature_loss(teacher[i : i + 1], student[i : i + 1]) for i in range(3)
    ]

    together = hard_feature_loss(teacher, student)

    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_hard_feature_loss_of_everything_is_the_mean(pair):
    teacher, student = pair

    torch.testing.assert_close(
        hard_feature_loss(teacher, student, 0.0), (teacher - student).square().mean()
    )


def test_hard_feature_loss_works_where_torch_quantile_gives_up():
    """`torch.quantile` refuses more than 2**24 elements."""
    teacher = torch.zeros(1, 384, 210, 210)
    student = torch.zeros_like(teacher)
    student.view(-1)[:20_000] = 2.0

    assert teacher.numel() > 2**24
    assert hard_feature_loss(teacher, student).item() == pytest.approx(4.0)


def test_only_hard_distances_give_the_student_a_gradient(pair):
    teacher, student = pair
    student = student.clone().requires_grad_()

    hard_feature_loss(teacher, student, 0.9).backward()

    distances = (teacher - student).square().flatten(1)
    is_hard = distances >= distances.quantile(0.9, dim=1, keepdim=True)
    assert student.grad is not None
    assert torch.equal(student.grad.flatten(1) != 0, is_hard)


def test_mean_losses_are_means_of_squares(pair):
    a, b = pair
    expected = np.mean((a.numpy() - b.numpy()) ** 2)

    assert autoencoder_loss(a, b).item() == pytest.approx(expected, rel=1e-5)
    assert student_autoencoder_loss(a, b).item() == pytest.approx(expected, rel=1e-5)
    assert pretraining_penalty(a).item() == pytest.approx(
        np.mean(a.numpy() ** 2), rel=1e-5
    )


def test_student_autoencoder_loss_reaches_both_networks(pair):
    autoencoder, student = (t.clone().requires_grad_() for t in pair)

    student_autoencoder_loss(autoencoder, student).backward()

    assert autoencoder.grad is not None
    assert student.grad is not None
    torch.testing.assert_close(autoencoder.grad, -student.grad)


def test_a_distance_map_is_the_channel_mean_of_squares(pair):
    a, b = pair
    expected = ((a.numpy() - b.numpy()) ** 2).mean(1)

    np.testing.assert_allclose(mean_square_map(a - b).numpy(), expected, rtol=1e-5)
