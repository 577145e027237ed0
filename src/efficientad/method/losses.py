"""The losses of Algorithm 1, on normalized descriptors.

All take (batch, channels, rows, columns) and return the mean over the images.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Descriptors = Float[Tensor, "batch channels rows columns"]
Loss = Float[Tensor, ""]


def hard_feature_loss(
    teacher: Descriptors, student: Descriptors, p_hard: float = 0.999
) -> Loss:
    """Return the mean of the largest squared distances (paper, section 3.2).

    Where the student already imitates the teacher it gets no gradient, so it has no
    reason to become good everywhere, and a forgotten normal detail still counts in
    full.

    The largest are those from each image's own `p_hard` quantile on, interpolated as
    `torch.quantile` does, but exact at any tensor size.

    Args:
        teacher: Normalized teacher descriptors.
        student: The student's first half.
        p_hard: Quantile from which on distances count, in [0, 1).
    """
    distances = (teacher - student).square().flatten(1)
    is_hard = _is_hard(distances, p_hard)
    per_image = (distances * is_hard).sum(1) / is_hard.sum(1)
    return per_image.mean()


def hard_feature_mask(
    teacher: Descriptors, student: Descriptors, p_hard: float = 0.999
) -> Float[Tensor, "batch rows columns"]:
    """Return the share of channels that the hard feature loss averages at each cell.

    Args:
        teacher: Normalized teacher descriptors.
        student: The student's first half.
        p_hard: Quantile from which on distances count, in [0, 1).
    """
    distances = (teacher - student).square()
    is_hard = _is_hard(distances.flatten(1), p_hard)
    return is_hard.view(distances.shape).float().mean(1)


def _is_hard(
    distances: Float[Tensor, "batch elements"], p_hard: float
) -> Bool[Tensor, "batch elements"]:
    return distances >= _quantile(distances.detach(), p_hard)[:, None]


def _quantile(values: Tensor, p: float) -> Tensor:
    """Return the quantile of each row by selecting the largest values."""
    n = values.shape[1]
    position = p * (n - 1)
    below = math.floor(position)
    # Selection of the few largest: the smallest of them is at `below`.
    largest = values.topk(n - below, dim=1, sorted=False).values
    lower = largest.min(1).values
    if below == position:
        return lower
    # The next order statistic is the smallest of the others: put one copy aside.
    upper = largest.topk(n - below - 1, dim=1, sorted=False).values.min(1).values
    return lower + (upper - lower) * (position - below)


def pretraining_penalty(student: Descriptors) -> Loss:
    """Return the mean square of the student's output (paper, section 3.2).

    Args:
        student: The student's first half on pretraining images, which it must not
            learn to describe as the teacher does.
    """
    return student.square().mean()


def autoencoder_loss(teacher: Descriptors, autoencoder: Descriptors) -> Loss:
    """Return the mean squared error of the autoencoder (paper, section 3.3)."""
    return (teacher - autoencoder).square().mean()


def student_autoencoder_loss(autoencoder: Descriptors, student: Descriptors) -> Loss:
    """Return the mean squared error of the student's second half (section 3.3).

    It predicts the autoencoder's blurred output. The gradient reaches both networks, as
    in the reference reimplementations.
    """
    return (autoencoder - student).square().mean()


def mean_square_map(difference: Descriptors) -> Float[Tensor, "batch rows columns"]:
    """Return the mean over the channels of the squares."""
    squares: Tensor = torch.linalg.vecdot(difference, difference, dim=1)
    return squares / difference.shape[1]
