import numpy as np
import pytest
from scipy.stats import hmean

from efficientad.errors import ConfigError
from efficientad.method.maps import (
    MapScale,
    combine_maps,
    divide_by_level,
    fit_quantiles,
    image_scores,
    map_levels,
    normalize_map,
    normalize_maps,
)
from efficientad.method.placement import place_map
from efficientad.method.sizes import GRID_SIZE


@pytest.fixture
def grids(rng):
    return rng.random((3, GRID_SIZE, GRID_SIZE), np.float32)


def test_normalization_sends_the_quantiles_to_zero_and_a_tenth():
    raw = np.array([[[2.0, 5.0, 8.0]]], np.float32)

    normalized = normalize_map(raw, MapScale(2.0, 5.0))

    np.testing.assert_allclose(normalized, [[[0.0, 0.1, 0.2]]], rtol=1e-6, atol=1e-7)
    assert normalized.dtype == np.float32


def test_quantiles_are_those_of_all_pixels_of_the_placed_maps(grids):
    pixels = np.sort(np.stack([place_map(g, 256, 256) for g in grids]).ravel())

    scale = fit_quantiles(grids)

    # Borders are extended, so values are tied: the quantile lies within its tie.
    for value, share in ((scale.low, 0.9), (scale.high, 0.995)):
        assert np.mean(pixels < value) <= share + 1e-5
        assert np.mean(pixels <= value) >= share - 1e-5


def test_other_quantiles_go_to_0_and_a_tenth(rng):
    grids = rng.gamma(2, 3, (1, 56, 56)).astype(np.float32)

    scale = fit_quantiles(grids, low=0.5, high=0.99)

    pixels = place_map(grids[0], 256, 256)
    expected = np.quantile(pixels, [0.5, 0.99])
    np.testing.assert_allclose([scale.low, scale.high], expected, rtol=1e-6)


def test_the_score_is_the_maximum_of_the_placed_combined_map(grids):
    expected = [place_map(grid, 256, 256).max() for grid in grids]

    np.testing.assert_allclose(image_scores(grids), expected, rtol=1e-6)


@pytest.mark.parametrize("names", [("local", "global"), ("one",), ("a", "b", "c")])
def test_the_combined_map_is_the_mean_of_all_named_maps(grids, names):
    raw = {name: grids[[n]] for n, name in enumerate(names)}
    scales = {name: MapScale(0.5 * n, 1.0 + n) for n, name in enumerate(names)}

    maps = normalize_maps(raw, scales)

    assert tuple(maps) == names
    np.testing.assert_allclose(
        combine_maps(maps), np.mean(list(maps.values()), axis=0), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(maps[names[0]], raw[names[0]] * 0.1, rtol=1e-6)


def test_constant_maps_give_no_scale():
    with pytest.raises(ConfigError, match="give other normal images"):
        fit_quantiles([np.ones((GRID_SIZE, GRID_SIZE), np.float32)])


def test_a_level_is_the_harmonic_mean_of_a_map(grids):
    raw = grids + np.float32(0.1)
    expected = [hmean(grid, axis=None) for grid in raw.astype(np.float64)]

    np.testing.assert_allclose(map_levels(raw), expected, rtol=1e-5)


def test_a_defect_of_half_the_image_hardly_moves_the_level(grids):
    raw = grids[:1] + np.float32(0.5)
    defective = raw.copy()
    defective[:, : GRID_SIZE // 2] *= 100

    assert float((map_levels(defective) / map_levels(raw))[0]) < 2.1
    assert float(defective.mean() / raw.mean()) > 50


def test_zero_distances_give_a_level_that_divides(grids):
    raw = grids[:1].copy()
    raw[0, 0, 0] = 0

    assert np.isfinite(divide_by_level(raw, 1e-9, 1.0)).all()


def test_images_at_other_levels_within_the_normal_range_score_the_same(grids):
    scale = MapScale(1.0, 2.0, least_level=0.01, greatest_level=100.0)
    raw = grids[:1] + np.float32(0.1)

    np.testing.assert_allclose(
        normalize_map(3 * raw, scale), normalize_map(raw, scale), rtol=1e-5, atol=1e-6
    )


def test_an_image_that_is_strange_all_over_stays_strange(grids):
    raw = grids[:1] + np.float32(0.1)
    level = float(map_levels(raw)[0])
    scale = MapScale(1.0, 2.0, least_level=level, greatest_level=level)

    strange = normalize_map(10 * raw, scale)

    np.testing.assert_allclose(
        strange, ((10 * raw / level) - 1.0) * 0.1, rtol=1e-5, atol=1e-6
    )
