"""The position of a grid of descriptors on the image.

Descriptor (i, j) sees input rows 4i to 4i + 32, so it is drawn at their center, 4i + 16
of 256. A map is interpolated linearly between the centers. The value of a border cell
extends from its center, 16 pixels from the border, to the border: padding with zeros
would call every border normal.

One matrix per axis interpolates the grid at any image size, so the map of an image that
was resized for the networks has the image's own pixels. The number of cells along an
axis tells the size of the networks' input there: 56 cells belong to 256 pixels.

NumPy, PyTorch and exported graphs use the same matrices. Needs no torch.

Pictures fade the extended values towards the border (`border_fade`): nearly a quarter
of an image lies there, and a corner cell would be a square of 18 x 18 pixels.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from efficientad.method.sizes import GRID_SIZE, PATCH_SIZE, PATCH_STRIDE

FIRST_CENTER = PATCH_SIZE // 2
MAX_SIDE = 16_384
"""Longest side of the networks' input in tiles, in pixels."""
MAX_MAP_SIDE = 1024
"""Longest side of an input whose pixels are measured one by one."""

_BLOCK_PIXELS = 2**16
"""Pixels of a map that are drawn at a time, few enough for the processor's cache."""

CellsAndShares = tuple[NDArray[np.int64], NDArray[np.float32]]


def input_size(n_cells: int) -> int:
    """Return the pixels of the networks' input along an axis of so many cells."""
    return PATCH_STRIDE * n_cells + 2 * FIRST_CENTER


def map_size(rows: int, columns: int) -> tuple[int, int]:
    """Return the height and width of `measured_map` for a grid of so many cells."""
    height, width = input_size(rows), input_size(columns)
    if max(height, width) > MAX_MAP_SIDE:
        return height // PATCH_STRIDE, width // PATCH_STRIDE
    return height, width


def measured_map(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the map of a grid that areas and quantiles are measured on, of `map_size`.

    It has a pixel for each one of the networks' input. For an input of more than 1024
    pixels a side each cell is one pixel, and the border cells are repeated.
    """
    height, width = map_size(*grid.shape)
    if height == input_size(len(grid)):
        return place_map(grid, height, width)
    return np.pad(grid, FIRST_CENTER // PATCH_STRIDE, mode="edge")


def cells_of_pixels(n_cells: int) -> NDArray[np.intp]:
    """Return the first of the input's pixels that each cell is nearest to."""
    starts = PATCH_STRIDE * np.arange(n_cells) + FIRST_CENTER - 1
    starts[0] = 0
    return starts


@functools.lru_cache(maxsize=32)
def _cells_and_shares(n_pixels: int, n_cells: int) -> CellsAndShares:
    """Return the cell before each pixel of an axis, and the share of the next cell."""
    # Pixel centers, from the image's own pixels to the network input's.
    in_input = (np.arange(n_pixels) + 0.5) * (input_size(n_cells) / n_pixels) - 0.5
    return _around(in_input, n_cells)


@functools.lru_cache(maxsize=32)
def _of_finer_cells(n_finer: int, n_cells: int) -> CellsAndShares:
    """Return the same for the center of each cell of a finer grid of the image."""
    centers = PATCH_STRIDE * np.arange(n_finer) + FIRST_CENTER + 0.5
    return _around(centers * (input_size(n_cells) / input_size(n_finer)) - 0.5, n_cells)


def _around(in_input: NDArray[np.floating], n_cells: int) -> CellsAndShares:
    cell = np.clip((in_input - FIRST_CENTER) / PATCH_STRIDE, 0, n_cells - 1)
    left = np.minimum(cell.astype(np.int64), max(n_cells - 2, 0))
    return left, (cell - left).astype(np.float32)


def border_fade(
    height: int, width: int, rows: int = GRID_SIZE, columns: int = GRID_SIZE
) -> NDArray[np.float32]:
    """Return factors for the map of a grid as a picture, (height, width).

    They are 1 from the outermost centers inwards, and fall to 0 at the border.
    """
    return _axis_fade(height, rows)[:, np.newaxis] * _axis_fade(width, columns)


def _axis_fade(n_pixels: int, n_cells: int) -> NDArray[np.float32]:
    size = input_size(n_cells)
    last_center = FIRST_CENTER + PATCH_STRIDE * (n_cells - 1)
    in_input = (np.arange(n_pixels) + 0.5) * (size / n_pixels)
    before = in_input / (FIRST_CENTER + 0.5)
    behind = (size - in_input) / (size - last_center - 0.5)
    fade: NDArray[np.float32] = np.clip(np.minimum(before, behind), 0, 1)
    return fade.astype(np.float32)


def place_map(
    grid: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    """Return a grid, (rows, columns), drawn on an image of (height, width) pixels."""
    rows, columns = grid.shape
    down, across = _cells_and_shares(height, rows), _cells_and_shares(width, columns)
    return _refined(grid.astype(np.float32), down, across)


def refine_grid(
    grid: NDArray[np.float32], rows: int, columns: int
) -> NDArray[np.float32]:
    """Return a map of the same image on a finer grid, (rows, columns)."""
    down = _of_finer_cells(rows, grid.shape[0])
    return _refined(grid, down, _of_finer_cells(columns, grid.shape[1]))


def _refined(
    grid: NDArray[np.float32], down: CellsAndShares, across: CellsAndShares
) -> NDArray[np.float32]:
    columns = _interpolated(grid.T, *across)
    return _interpolated(np.ascontiguousarray(columns.T), *down)


def _interpolated(
    lines: NDArray[np.float32], left: NDArray[np.int64], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Interpolate between lines, (cells, length), to (n_pixels, length).

    A product with the matrix would be slower: the threads of NumPy's BLAS keep running
    for about 50 ms after it, on the cores that the next image needs.
    """
    n_pixels, length = len(left), lines.shape[1]
    steps = np.diff(lines, axis=0, append=lines[-1:])
    found = np.empty((n_pixels, length), np.float32)
    n_rows = max(1, _BLOCK_PIXELS // length)
    for start in range(0, n_pixels, n_rows):
        block = slice(start, start + n_rows)
        np.take(lines, left[block], axis=0, out=found[block], mode="clip")
        found[block] += steps[left[block]] * share[block, np.newaxis]
    return found
