"""Maps lie where their descriptors look."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.method.placement import (
    border_fade,
    place_map,
)
from efficientad.method.sizes import GRID_SIZE, PATCH_SIZE, PATCH_STRIDE


@given(n_pixels=st.integers(1, 2000))
def test_placement_is_an_average_of_cells(n_pixels):
    columns = np.eye(GRID_SIZE, dtype=np.float32)[:, :, np.newaxis]

    matrix = np.hstack([place_map(column, n_pixels, 1) for column in columns])

    assert matrix.shape == (n_pixels, GRID_SIZE)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_each_cell_is_drawn_at_the_center_of_its_patch():
    """The center comes from the network itself: the rows with a gradient."""
    torch.manual_seed(0)
    network = PatchDescriptionNetwork("small").double()
    cell = 7
    size = (cell + 2) * PATCH_STRIDE + PATCH_SIZE
    image = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    network(image)[0, :, cell, cell].sum().backward()
    assert image.grad is not None
    rows = torch.nonzero(image.grad[0].abs().sum((0, 2))).ravel()
    center = int(rows.float().mean())

    grid = np.zeros((GRID_SIZE, GRID_SIZE), np.float32)
    grid[cell, cell] = 1
    placed = place_map(grid, 256, 256)

    assert np.unravel_index(placed.argmax(), placed.shape) == (center, center)
    assert placed[center, center] == 1


def test_border_cells_are_extended_outwards():
    grid = np.arange(GRID_SIZE, dtype=np.float32)[:, None] + np.ones(GRID_SIZE)

    placed = place_map(grid.astype(np.float32), 256, 256)

    np.testing.assert_allclose(placed[:17], 1, atol=1e-6)
    np.testing.assert_allclose(placed[-19:], GRID_SIZE, rtol=1e-6)


def test_pictures_fade_from_the_outer_centers_to_the_border():
    fade = border_fade(256, 256)

    assert fade.shape == (256, 256)
    assert (fade[16:237, 16:237] == 1).all()
    assert fade[:, [0, -1]].max() < 0.05
    np.testing.assert_allclose(fade[8, 100], 8.5 / 16.5, rtol=1e-6)
    np.testing.assert_allclose(fade, fade.T)
    assert border_fade(10, 2000).shape == (10, 2000)


def test_a_ramp_stays_a_ramp_between_the_outer_centers():
    grid = np.repeat(np.arange(GRID_SIZE, dtype=np.float32)[:, None], GRID_SIZE, 1)

    placed = place_map(grid, 256, 256)

    expected = (np.arange(16, 237) - 16) / 4
    np.testing.assert_allclose(placed[16:237, 0], expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(256, 512), (33, 900), (1, 1)])
def test_the_map_has_the_images_own_size(height, width):
    grid = np.full((GRID_SIZE, GRID_SIZE), 3.0, np.float32)

    placed = place_map(grid, height, width)

    assert placed.shape == (height, width)
    np.testing.assert_allclose(placed, 3.0, rtol=1e-6)


def test_a_map_of_twice_the_size_agrees_where_pixels_coincide():
    """Pixel y of 256 lies between pixels 2y and 2y + 1 of 512."""
    rng = np.random.default_rng(0)
    grid = rng.random((GRID_SIZE, GRID_SIZE), np.float32)

    small, large = place_map(grid, 256, 256), place_map(grid, 512, 512)

    # Away from cell centers the map is linear across each pixel pair.
    halves = (large[::2] + large[1::2]) / 2
    halves = (halves[:, ::2] + halves[:, 1::2]) / 2
    between = np.arange(17, 236, 4)
    np.testing.assert_allclose(
        halves[np.ix_(between, between)], small[np.ix_(between, between)], atol=1e-5
    )
