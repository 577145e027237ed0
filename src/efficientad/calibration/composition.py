"""The Gaussian of normal images' cells, learned from the training images.

Light, focus and position differ from session to session and are no defects. Images with
such changes show in which directions they move the cells, and these directions then
count less.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from efficientad.calibration.normal_images import Pixels
from efficientad.calibration.scoring import outputs
from efficientad.calibration.second_session import n_affordable
from efficientad.engines.engine import Engine, EngineOutput
from efficientad.images.changes import CHANGES, changed
from efficientad.inspection.tiling import WHOLE
from efficientad.method.composition import COMPOSITION, Composition

_MAX_IMAGES: Final = 400
"""Most normal images that a Gaussian is fitted to."""
_LEAST_CHANGED: Final = 200
"""Fewer normal images than this are changed several times each, about up to it."""
_MAX_CHANGES: Final = 4
"""Changes of one image, at most."""
_WEIGHT_OF_CHANGES: Final = 4.0
_N_FOLDS: Final = 5
_LEAST_SHRINKAGE: Final = 1e-3
_LEAST_DEVIATION: Final = 1e-3
"""Descriptors are normalized, so this is far below what any of them varies by."""

Array = NDArray[np.float64]


def learn_composition(
    engine: Engine, pixels: Pixels, *, seed: int
) -> tuple[Composition | None, EngineOutput]:
    """Fit the Gaussian to training images, and to changes that are no defects.

    There is none for tiles: it would hide the small defects that they find.

    Args:
        engine: Engine of the trained networks; it gives `cells`.
        pixels: Training images, (n, height, width, 3), at least one.
        seed: Seed of the changes.

    Returns:
        The Gaussian, and the output for up to 400 of the images, or for fewer large
        ones, with their cross-fitted distances. Its maps have no region: another one
        may follow.
    """
    pixels = pixels[:: -(-len(pixels) // n_affordable(_MAX_IMAGES, pixels))]
    output = outputs(engine, pixels, task="training images")
    if pixels.shape[1:3] != WHOLE:
        return None, output
    rng = np.random.default_rng((seed, len(pixels)))
    kinds = list(CHANGES)
    n_changes = min(max(1, _LEAST_CHANGED // len(pixels)), _MAX_CHANGES)
    origins = np.tile(np.arange(len(pixels)), n_changes)
    variants = np.stack(
        [
            changed(image, kinds[rng.integers(len(kinds))], rng.uniform(-1, 1), index)
            for index, image in enumerate(pixels[origins])
        ]
    )
    cells = outputs(engine, variants, task="changed images").values["cells"]
    composition, distances = fit_composition(output.values["cells"], cells, origins)
    values = {COMPOSITION: distances[:, np.newaxis]}
    return composition, EngineOutput(output.grids, values)


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
        changed: Cells of them after changes that are no defects, (m, n).
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
        center = normal[inside].mean(0)
        axes, factor = _axes(normal[inside] - center, changes[inside[origins]])
        part = Composition(
            center.astype(np.float32),
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
