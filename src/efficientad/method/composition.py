"""Composition: how far an image as a whole is from normal ones, as one distance.

The student's descriptors are averaged within 4 x 4 cells, relative to their mean over
the image, and their Gaussian on normal images is fitted. The distance of Mahalanobis
says how unusual it is that these features meet in these places, where no single patch
need be strange. The paper has no such term. PUAD (arXiv 2402.15143) adds the distance
of the mean over all positions; the cells are this project's. No torch here.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Network = Literal["student", "teacher"]

COMPOSITION: Final = "composition"
"""The image-level term by its name."""
CELLS: Final = 4
"""Cells along a side of the image."""

_PREFIXES: Final[dict[Network, str]] = {
    "student": "student_composition",
    "teacher": COMPOSITION,
}
"""Beginning of the names of the arrays, by the network whose descriptors they are."""
_ARRAYS: Final = ("mean", "scale", "axes")


class Composition(NamedTuple):
    """Gaussian of the cells of normal images, as arrays of a detector."""

    mean: NDArray[np.float32]
    """Mean of each number, (n,)."""
    scale: NDArray[np.float32]
    """Factor of each number, (n,)."""
    axes: NDArray[np.float32]
    """Directions in which normal images differ, (k, n), each as long as its share of
    the squared distance that is usual there."""
    network: Network = "student"
    """Network whose descriptors it compares; the teacher's in earlier files."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Composition | None":
        """Return the Gaussian among the arrays of a detector; None if there is none."""
        for network, prefix in _PREFIXES.items():
            if f"{prefix}_axes" in arrays:
                mean, scale, axes = (arrays[f"{prefix}_{name}"] for name in _ARRAYS)
                return cls(mean, scale, axes, network)
        return None

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays by their names in a detector."""
        prefix = _PREFIXES[self.network]
        return {f"{prefix}_{name}": getattr(self, name) for name in _ARRAYS}

    def distances(self, cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distances of images by their cells, (n_images, n)."""
        centered = (cells - self.mean) * self.scale
        # No matrix product: BLAS' waiting threads would slow down the next prediction.
        usual = np.einsum("nd,kd->nk", centered, self.axes)
        squares = np.square(centered).sum(1) - np.square(usual).sum(1)
        distances: NDArray[np.float32] = np.sqrt(np.maximum(squares, 0))
        return distances


def composed_network(composition: Composition | None) -> Network:
    """Return the network whose cells an engine computes; the student's without one."""
    return "student" if composition is None else composition.network


def image_values(
    cells: NDArray[np.float32], composition: Composition | None
) -> dict[str, NDArray[np.float32]]:
    """Return the image-level values of an engine, (n_images, length), by name.

    They are `cells`, and `composition` if there is the Gaussian.
    """
    values = {"cells": cells}
    if composition is not None:
        values[COMPOSITION] = composition.distances(cells)[:, np.newaxis]
    return values


def cell_window(side: int, network: Network) -> tuple[int, int]:
    """Return the size of a cell, and the distance from one cell to the next.

    A cell is what 14 x 14 descriptors see. Those of earlier files, of the teacher, lie
    apart. The hidden features have a side of 59 (small) or 56 (medium).
    """
    size = 14 if network == "teacher" else side - (CELLS - 1) * 14
    return size, (side - size) // (CELLS - 1)


def cells_of(features: NDArray[np.float32], network: Network) -> NDArray[np.float32]:
    """Return the means within cells, (16, channels), relative to those of all cells.

    They are means of the hidden features of an image, (side, side, channels).
    """
    size, step = cell_window(len(features), network)
    starts = range(0, CELLS * step, step)
    rows = np.stack([features[start : start + size].sum(0) for start in starts])
    cells = np.stack([rows[:, s : s + size].sum(1) for s in starts], 1)
    means = cells.reshape(CELLS * CELLS, -1) / np.float32(size**2)
    relative: NDArray[np.float32] = means - means.mean(0)
    return relative


def head_weights(
    kernels: NDArray[np.floating], std: NDArray[np.floating], network: Network
) -> NDArray[np.float64]:
    """Return the matrix from the mean of hidden features to that of descriptors.

    The kernels are those of a network's last convolution, (outputs, inputs, rows,
    columns). The first outputs of the student predict the teacher's channels, divided
    by their deviations.
    """
    weights: NDArray[np.float64] = kernels[: len(std)].astype(np.float64).sum((2, 3))
    return weights if network == "student" else weights / np.reshape(std, (-1, 1))
