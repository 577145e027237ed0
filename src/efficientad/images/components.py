"""Connected groups of pixels, in NumPy alone.

Pixels that share a side are connected, as in `scipy.ndimage.label`; pixels that touch
at a corner are not, and the pixels of a hole belong to no group. The work is done on
horizontal runs of pixels, of which a map above a level has few.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.images.rgb import Mask

Indices = NDArray[np.intp]


class Components(NamedTuple):
    """Horizontal runs of pixels and the group of each."""

    rows: Indices
    """Row of each run."""
    starts: Indices
    """First column of each run."""
    ends: Indices
    """Column behind each run."""
    group_of_run: Indices
    """Number of the run's group, from 0."""

    def areas(self) -> Indices:
        """Return the pixels of each group, (n_groups,)."""
        lengths = self.ends - self.starts
        return np.bincount(self.group_of_run, lengths).astype(np.intp)

    def labels(self, height: int, width: int) -> NDArray[np.intp]:
        """Return the group of each pixel, (height, width), and -1 outside of all."""
        steps = np.zeros((height, width + 1), np.intp)
        steps[self.rows, self.starts] += self.group_of_run + 1
        steps[self.rows, self.ends] -= self.group_of_run + 1
        return steps[:, :-1].cumsum(axis=1) - 1


def components(mask: Mask) -> Components:
    """Return the connected groups of the pixels of a mask."""
    height, width = mask.shape
    stride = width + 1
    padded = np.zeros((height, width + 2), np.bool_)
    padded[:, 1:-1] = mask
    edges = np.flatnonzero(padded[:, 1:] != padded[:, :-1])
    starts, ends = edges[::2], edges[1::2]
    # Runs of the next row that share a column with each run.
    first = np.searchsorted(ends, starts + stride, side="right")
    behind = np.searchsorted(starts, ends + stride, side="left")
    n_below = np.maximum(behind - first, 0)
    above = np.repeat(np.arange(len(starts)), n_below)
    offsets = np.arange(len(above)) - np.repeat(np.cumsum(n_below) - n_below, n_below)
    below = np.repeat(first, n_below) + offsets
    rows = starts // stride
    groups = np.unique(joined(len(starts), above, below), return_inverse=True)[1]
    return Components(rows, starts - rows * stride, ends - rows * stride, groups)


def joined(n: int, one: Indices, other: Indices) -> Indices:
    """Return the first node of each node's group, (n,), where edges join the nodes."""
    root = np.arange(n)
    while True:
        a, b = root[one], root[other]
        if (a == b).all():
            break
        low, high = np.minimum(a, b), np.maximum(a, b)
        np.minimum.at(root, high, low)
        while (root != root[root]).any():
            root = root[root]
    return root
