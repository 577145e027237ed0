import numpy as np
import pytest
import torch

from efficientad.images import INPUT_SIZE
from efficientad.method.placement import GRID_CELLS
from efficientad.training.calibration import calibrate, global_weight


def grids_of_levels(*levels):
    return [np.full((GRID_CELLS, GRID_CELLS), v, np.float32) for v in levels]


def test_the_global_map_counts_less_by_as_much_as_it_is_less_steady():
    steady = grids_of_levels(0.9, 1.0, 1.1)
    unsteady = grids_of_levels(12.0, 20.0, 28.0)

    assert global_weight(steady, unsteady) == pytest.approx(0.1 / 0.4, rel=1e-5)


def test_it_never_counts_more_than_the_local_map():
    steady, unsteady = grids_of_levels(2.0, 2.1, 2.2), grids_of_levels(1.0, 2.0, 3.0)

    assert global_weight(unsteady, steady) == 1
    assert global_weight(steady, steady) == 1


def test_it_never_vanishes():
    constant, unsteady = grids_of_levels(1.0, 1.0), grids_of_levels(1.0, 9.0)

    assert global_weight(constant, unsteady) == 0.1


def test_one_image_tells_nothing_about_steadiness(rng):
    one = [rng.random((GRID_CELLS, GRID_CELLS), np.float32)]
    other = [rng.random((GRID_CELLS, GRID_CELLS), np.float32)]

    assert global_weight(one, other) == 1


def test_weighing_changes_the_reach_of_the_global_map_only(
    judging_detector, photograph
):
    pixels = np.stack([photograph(INPUT_SIZE, INPUT_SIZE, seed) for seed in range(3)])
    maps = judging_detector.judged_maps(torch.from_numpy(pixels))
    weight = global_weight(list(maps.local_map.numpy()), list(maps.global_map.numpy()))

    same = calibrate(judging_detector, pixels)
    weighed = calibrate(judging_detector, pixels, weighs_maps=True)

    assert weighed.local_quantiles == same.local_quantiles
    assert weighed.global_quantiles.low == same.global_quantiles.low
    reach = weighed.global_quantiles.high - weighed.global_quantiles.low
    plain_reach = same.global_quantiles.high - same.global_quantiles.low
    assert reach == pytest.approx(plain_reach / weight)
