"""Composition: how far an image as a whole is from normal ones, as one distance.

The student's descriptors are averaged within 4 x 4 cells, relative to their mean over
the image, and their Gaussian on normal images is fitted. The distance of Mahalanobis
says how unusual it is that these features meet in these places, where no single patch
need be strange. The paper has no such term. PUAD (arXiv 2402.15143) adds the distance
of the mean over all positions; the cells, and the changes below, are this project's.

Light, focus and position differ from session to session and are no defects. Images with
such changes show in which directions they move the features, and these directions then
count less. No torch here.
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
MAX_IMAGES: Final = 400
"""Most normal images that a Gaussian is fitted to, and most changed ones."""

_WEIGHT_OF_CHANGES: Final = 4.0
_N_FOLDS: Final = 5
_LEAST_SHRINKAGE: Final = 1e-3
_LEAST_DEVIATION: Final = 1e-3
"""Descriptors are normalized, so this is far below what any of them varies by."""

_PREFIXES: Final[dict[Network, str]] = {
    "student": "student_composition",
    "teacher": COMPOSITION,
}
"""Beginning of the names of the arrays, by the network whose descriptors they are."""
_ARRAYS: Final = ("mean", "scale", "axes")

Array = NDArray[np.float64]


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
        """Return the distance of each image, (n_images,).

        Args:
            cells: Cells of the images, (n_images, n).
        """
        centred = (cells - self.mean) * self.scale
        # No matrix product: BLAS' waiting threads would slow down the next prediction.
        usual = np.einsum("nd,kd->nk", centred, self.axes)
        squares = np.square(centred).sum(1) - np.square(usual).sum(1)
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
    apart.

    Args:
        side: Rows of the hidden features: 59 (small) or 56 (medium).
        network: The network whose descriptors they are.
    """
    size = 14 if network == "teacher" else side - (CELLS - 1) * 14
    return size, (side - size) // (CELLS - 1)


def cells_of(features: NDArray[np.float32], network: Network) -> NDArray[np.float32]:
    """Return the means of features within cells, relative to those of all cells.

    Args:
        features: Hidden features of an image, (side, side, channels).
        network: The network whose features they are.

    Returns:
        (16, channels), row by row.
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
) -> Array:
    """Return the matrix from the mean of hidden features to that of descriptors.

    Args:
        kernels: Weights of the network's last convolution, (outputs, inputs, rows,
            columns).
        std: Deviation of the teacher's channels, (channels,). The first outputs of the
            student predict them normalized.
        network: The network whose descriptors they are.
    """
    weights: Array = kernels[: len(std)].astype(np.float64).sum((2, 3))
    return weights if network == "student" else weights / np.reshape(std, (-1, 1))


def fit_composition(
    cells: NDArray[np.float32],
    changed: NDArray[np.float32],
    origins: NDArray[np.intp],
) -> tuple[Composition, NDArray[np.float32]]:
    """Fit the Gaussian of normal images, and return their own cross-fitted distances.

    Its covariance is shrunk (Ledoit and Wolf 2004), so there may be fewer images than
    numbers, and all images may be equal.

    Args:
        cells: Cells of the normal images, (n_images, n), at least one image.
        changed: Cells of some of them with changes that are no defects, (m, n).
        origins: Index in `cells` of each changed image, (m,).

    Returns:
        The Gaussian, and the distance of each image from the Gaussian of four fifths of
        the images without it, (n_images,); with fewer than ten images, those from all.
    """
    cells = cells.astype(np.float64)
    mean = cells.mean(0)
    scale = 1 / np.maximum(cells.std(0), _LEAST_DEVIATION)
    normal = (cells - mean) * scale
    changes = (changed - cells[origins]) * scale
    axes, factor = _axes(normal, changes)
    fitted = Composition(
        mean.astype(np.float32),
        (scale * factor).astype(np.float32),
        axes.astype(np.float32),
    )
    if len(cells) < 2 * _N_FOLDS:
        return fitted, fitted.distances(cells.astype(np.float32))
    distances = np.empty(len(cells), np.float32)
    fold = np.random.default_rng(0).permutation(len(cells)) % _N_FOLDS
    for index in range(_N_FOLDS):
        inside = fold != index
        centre = normal[inside].mean(0)
        axes, factor = _axes(normal[inside] - centre, changes[inside[origins]])
        part = Composition(
            centre.astype(np.float32),
            np.full(len(mean), factor, np.float32),
            axes.astype(np.float32),
        )
        distances[~inside] = part.distances(normal[~inside].astype(np.float32))
    return fitted, distances


def _axes(normal: Array, changes: Array) -> tuple[Array, float]:
    """Return the axes of a Gaussian about zero, and the factor of all numbers.

    The inverse of `variance * identity + B`, with eigenvectors and eigenvalues of B, is
    the identity less a share of each eigenvector, over the variance.
    """
    n, length = normal.shape
    gram = normal @ normal.T / n
    mean_variance = np.trace(gram) / length
    squares = np.square(gram).sum()
    spread = np.square(np.square(normal).sum(1)).sum() / n - squares
    distance = squares - length * mean_variance**2
    share = min(1.0, max(0.0, spread / n / distance)) if distance > 0 else 1.0
    share = max(share, _LEAST_SHRINKAGE)
    rows = np.sqrt((1 - share) / n) * normal
    if len(changes):
        weight = np.sqrt(_WEIGHT_OF_CHANGES / len(changes))
        rows = np.concatenate([rows, weight * changes])
    values, vectors = np.linalg.eigh(rows @ rows.T)
    kept = values > 1e-9 * max(float(values[-1]), 1e-300)
    values, vectors = values[kept], vectors[:, kept]
    variance = max(share * mean_variance, _LEAST_SHRINKAGE)
    lengths = np.sqrt(values / (values + variance)) / np.sqrt(values)
    return lengths[:, np.newaxis] * (vectors.T @ rows), float(1 / np.sqrt(variance))
