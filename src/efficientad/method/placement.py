"""The position of a grid of descriptors on the image.

Descriptor (i, j) sees input rows 4i to 4i + 32, so it is drawn at their centre, 4i + 16
of 256. A map is interpolated linearly between the centres. The value of a border cell
extends from its centre, 16 pixels from the border, to the border: padding with zeros
would call every border normal.

A grid with another number of cells is another method's. It covers the image evenly, and
each value is drawn at the centre of its cell.

One matrix per axis interpolates the grid at any image size, so the map of an image that
was resized to 256 x 256 for the networks has the image's own pixels.

NumPy, PyTorch and exported graphs use the same matrices. Needs no torch.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from efficientad.images.rgb import INPUT_SIZE

CELL_STRIDE = 4
FIRST_CENTRE = 16
GRID_CELLS = (INPUT_SIZE - 2 * FIRST_CENTRE - 1) // CELL_STRIDE + 1


_BLOCK_PIXELS = 2**16
"""Pixels of a map that are drawn at a time, few enough for the processor's cache."""


@functools.lru_cache(maxsize=32)
def _cells_and_shares(
    n_pixels: int, n_cells: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the cell before each pixel of an axis, and the share to the next cell."""
    # Pixel centres, from the image's own pixels to the network input's.
    in_input = (np.arange(n_pixels) + 0.5) * (INPUT_SIZE / n_pixels) - 0.5
    first, stride = float(FIRST_CENTRE), float(CELL_STRIDE)
    if n_cells != GRID_CELLS:
        stride = INPUT_SIZE / n_cells
        first = (stride - 1) / 2
    cell = np.clip((in_input - first) / stride, 0, n_cells - 1)
    left = np.minimum(cell.astype(np.int64), max(n_cells - 2, 0))
    return left, (cell - left).astype(np.float32)


@functools.lru_cache(maxsize=32)
def placement_matrix(n_pixels: int, n_cells: int = GRID_CELLS) -> NDArray[np.float32]:
    """Return the matrix that interpolates one axis of a grid to an image's pixels.

    Args:
        n_pixels: Length of the axis in the image's own pixels, at least 1.
        n_cells: Grid cells along the axis of the 256-pixel input.

    Returns:
        (n_pixels, n_cells), read-only; every row is non-negative and sums to 1.
    """
    left, share = _cells_and_shares(n_pixels, n_cells)
    matrix = np.zeros((n_pixels, n_cells), np.float32)
    rows = np.arange(n_pixels)
    matrix[rows, left] = 1 - share
    matrix[rows, np.minimum(left + 1, n_cells - 1)] += share
    matrix.flags.writeable = False
    return matrix


def place_map(
    grid: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    """Draw a grid of map values on an image of the given size.

    Args:
        grid: (cells, cells), one value per descriptor, or any number of values that
            cover the image evenly.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        (height, width), float32.
    """
    across = _interpolated(grid.astype(np.float32).T, width).T
    return _interpolated(np.ascontiguousarray(across), height)


def _interpolated(lines: NDArray[np.float32], n_pixels: int) -> NDArray[np.float32]:
    """Interpolate between lines, (cells, length), to (n_pixels, length).

    A product with the matrix would be slower: the threads of NumPy's BLAS keep running
    for about 50 ms after it, on the cores that the next image needs.
    """
    n_cells, length = lines.shape
    left, share = _cells_and_shares(n_pixels, n_cells)
    steps = np.diff(lines, axis=0, append=lines[-1:])
    found = np.empty((n_pixels, length), np.float32)
    n_rows = max(1, _BLOCK_PIXELS // length)
    for start in range(0, n_pixels, n_rows):
        block = slice(start, start + n_rows)
        np.take(lines, left[block], axis=0, out=found[block], mode="clip")
        found[block] += steps[left[block]] * share[block, np.newaxis]
    return found
