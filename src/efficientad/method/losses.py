"""The losses of Algorithm 1, on normalized descriptors.

All take (batch, channels, rows, columns) and give one number: the mean over the images.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Descriptors = Float[Tensor, "batch channels rows columns"]
Loss = Float[Tensor, ""]


def hard_feature_loss(
    teacher: Descriptors, student: Descriptors, hard_share: float = 0.001
) -> Loss:
    """Average the largest squared distances only (paper, section 3.2).

    Where the student already imitates the teacher it gets no gradient, so it has no
    reason to become good everywhere, and a forgotten normal detail still counts in
    full.

    The threshold is the image's own (1 - hard_share) quantile of the squared distances,
    interpolated as `torch.quantile` does, but exact at any tensor size.

    Args:
        teacher: Normalized teacher descriptors.
        student: The student's first half.
        hard_share: Share of distances that counts, in (0, 1]: the paper's 1 - p_hard.
    """
    distances = (teacher - student).square().flatten(1)
    is_hard = _is_hard(distances, hard_share)
    per_image = (distances * is_hard).sum(1) / is_hard.sum(1)
    return per_image.mean()


def hard_feature_mask(
    teacher: Descriptors, student: Descriptors, hard_share: float = 0.001
) -> Float[Tensor, "batch rows columns"]:
    """Say where the hard feature loss looks: the share of channels it averages there.

    Args:
        teacher: As `hard_feature_loss` takes it.
        student: Likewise.
        hard_share: Likewise.
    """
    distances = (teacher - student).square()
    is_hard = _is_hard(distances.flatten(1), hard_share)
    return is_hard.view(distances.shape).float().mean(1)


def _is_hard(
    distances: Float[Tensor, "batch elements"], hard_share: float
) -> Bool[Tensor, "batch elements"]:
    return distances >= _upper_quantile(distances.detach(), hard_share)[:, None]


def _upper_quantile(values: Tensor, share: float) -> Tensor:
    """Give the (1 - share) quantile of each row."""
    n = values.shape[1]
    position = (1 - share) * (n - 1)
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
    """Keep the student's output small on natural images (paper, section 3.2).

    Args:
        student: The student's first half on images from the teacher's pretraining, so
            that it does not learn to imitate the teacher beyond the normal images.
    """
    return student.square().mean()


def autoencoder_loss(teacher: Descriptors, autoencoder: Descriptors) -> Loss:
    """Make the autoencoder predict the teacher's descriptors (paper, section 3.3)."""
    return (teacher - autoencoder).square().mean()


def student_autoencoder_loss(autoencoder: Descriptors, student: Descriptors) -> Loss:
    """Make the student's second half predict the autoencoder's blurred output.

    Its gradient reaches both networks, as in the reference reimplementations.
    """
    return (autoencoder - student).square().mean()


def mean_square_map(difference: Descriptors) -> Float[Tensor, "batch rows columns"]:
    """Give the mean over the channels of the squares."""
    squares: Tensor = torch.linalg.vecdot(difference, difference, dim=1)
    return squares / difference.shape[1]
