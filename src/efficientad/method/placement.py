"""Where a grid of descriptors lies on the image.

Descriptor (i, j) sees input rows 4i to 4i + 32, so it is drawn at their centre, 4i + 16
of 256. Between centres a map is interpolated linearly; outside the outermost centres,
16 pixels from the border, the border cell's value is extended. Nothing is ever padded
with zeros, which would call every border normal.

Everything is one matrix per axis, from the grid straight to any image size: the image
is resized to 256 x 256 for the networks, and its map goes back to its own pixels.

No torch here: the same matrices serve NumPy, PyTorch and exported graphs.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from efficientad.images import INPUT_SIZE

CELL_STRIDE = 4
FIRST_CENTRE = 16
GRID_CELLS = (INPUT_SIZE - 2 * FIRST_CENTRE - 1) // CELL_STRIDE + 1


@functools.lru_cache(maxsize=32)
def placement_matrix(n_pixels: int, n_cells: int = GRID_CELLS) -> NDArray[np.float32]:
    """Give the matrix that interpolates one axis of a grid to an image's pixels.

    Args:
        n_pixels: Length of the axis in the image's own pixels, at least 1.
        n_cells: Grid cells along the axis of the 256-pixel input.

    Returns:
        (n_pixels, n_cells), read-only; every row is non-negative and sums to 1.
    """
    # Pixel centres, from the image's own pixels to the network input's.
    in_input = (np.arange(n_pixels) + 0.5) * (INPUT_SIZE / n_pixels) - 0.5
    cell = np.clip((in_input - FIRST_CENTRE) / CELL_STRIDE, 0, n_cells - 1)
    left = np.minimum(cell.astype(np.int64), max(n_cells - 2, 0))
    share = cell - left
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
        grid: (cells, cells), one value per descriptor.
        height: Of the image in pixels.
        width: Of the image in pixels.

    Returns:
        (height, width), float32.
    """
    rows = placement_matrix(height, grid.shape[0])
    columns = placement_matrix(width, grid.shape[1])
    placed: NDArray[np.float32] = rows @ grid.astype(np.float32) @ columns.T
    return placed
