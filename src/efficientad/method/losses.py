"""The losses of Algorithm 1, on normalized descriptors (paper, sections 3.2 and 3.3).

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
    """Return the mean of the largest squared distances.

    Where the student already imitates the teacher it gets no gradient, so it has no
    reason to become good everywhere, and a forgotten normal detail still counts in
    full.

    Args:
        teacher: Normalized teacher descriptors.
        student: The student's first half.
        p_hard: Quantile of the image's own distances from which on they count, in
            [0, 1).
    """
    distances = (teacher - student).square().flatten(1)
    is_hard = is_at_least_quantile(distances.detach(), p_hard)
    per_image = (distances * is_hard).sum(1) / is_hard.sum(1)
    return per_image.mean()


def is_at_least_quantile(
    values: Float[Tensor, "rows elements"], p: float
) -> Bool[Tensor, "rows elements"]:
    """Return which values are at or above the `p` quantile of their row.

    Interpolated as `torch.quantile` does, but exact at any size.
    """
    n = values.shape[1]
    position = p * (n - 1)
    below = math.floor(position)
    # Selection of the few largest: the smallest of them is at `below`.
    largest = values.topk(n - below, dim=1, sorted=False).values
    quantile = largest.min(1).values
    if below != position:
        # The next order statistic is the smallest of the others: put one copy aside.
        upper = largest.topk(n - below - 1, dim=1, sorted=False).values.min(1).values
        quantile = quantile + (upper - quantile) * (position - below)
    return values >= quantile[:, None]


def pretraining_penalty(student: Descriptors) -> Loss:
    """Return the mean square of the student's first half on pretraining images.

    It keeps the student from imitating the teacher beyond the normal images.
    """
    return student.square().mean()


def autoencoder_loss(teacher: Descriptors, autoencoder: Descriptors) -> Loss:
    """Return the mean squared error of the autoencoder, which imitates the teacher."""
    return (teacher - autoencoder).square().mean()


def student_autoencoder_loss(autoencoder: Descriptors, student: Descriptors) -> Loss:
    """Return the mean squared error of the student's second half.

    It imitates the autoencoder's blurred output. The gradient reaches both networks, as
    in the reference reimplementations.
    """
    return (autoencoder - student).square().mean()


def mean_square_map(difference: Descriptors) -> Float[Tensor, "batch rows columns"]:
    """Return the mean over the channels of the squares."""
    squares: Tensor = torch.linalg.vecdot(difference, difference, dim=1)
    return squares / difference.shape[1]
