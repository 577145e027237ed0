"""Fewer channels for the same maps: the principal axes of the teacher's descriptors.

A map is a sum of squares over the channels, so turning the descriptors changes nothing.
Along the axes of their largest variance a few channels hold nearly all of that sum; the
others can be left out of every network. Deviation: the paper keeps all 384 channels.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

Vectors = Float[Tensor, "_ channels"]
Covariance = Float[Tensor, "channels channels"]
Axes = Float[Tensor, "axes channels"]


def covariance(parts: Iterable[Vectors]) -> Covariance:
    """Give the mean of the outer products of vectors, in double precision.

    Args:
        parts: At least one vector in all.
    """
    total, n = torch.zeros(()).double(), 0
    for vectors in parts:
        total = total + (vectors.T @ vectors).double()
        n += len(vectors)
    return total / n


def principal_axes(covariances: Iterable[Covariance], n_axes: int) -> Axes:
    """Give what descriptors are multiplied by to have fewer channels.

    Each covariance counts the same, whatever its scale: that of the normal images for
    what they hold, that of natural images for what else a defect may look like.

    Args:
        covariances: Of normalized descriptors.
        n_axes: Rows of the result.

    Returns:
        Orthonormal rows, the axis of the largest variance first.
    """
    # Images that are all alike vary nowhere.
    both = sum(each / each.trace().clamp(min=1e-12) for each in covariances)
    assert isinstance(both, Tensor)
    _, vectors = torch.linalg.eigh(both)
    axes: Tensor = vectors.flip(1).T[:n_axes].float()
    return axes
