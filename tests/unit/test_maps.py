import numpy as np
import pytest
import torch
from scipy.stats import hmean

from efficientad.errors import ConfigError
from efficientad.method.decision import Calibration, MapQuantiles
from efficientad.method.maps import (
    RawMaps,
    divided_by_level,
    image_scores,
    map_levels,
    map_quantiles,
    normalize_map,
    normalize_maps,
)
from efficientad.method.placement import GRID_CELLS, place_map


@pytest.fixture
def grids(rng):
    return list(rng.random((3, GRID_CELLS, GRID_CELLS), np.float32))


def test_normalization_sends_the_quantiles_to_zero_and_a_tenth():
    quantiles = MapQuantiles(2.0, 5.0)

    normalized = normalize_map(torch.tensor([[[2.0, 5.0, 8.0]]]), quantiles)

    torch.testing.assert_close(normalized, torch.tensor([[[0.0, 0.1, 0.2]]]))


def test_quantiles_are_those_of_all_pixels_of_the_placed_maps(grids):
    pixels = np.sort(np.stack([place_map(g, 256, 256) for g in grids]).ravel())

    quantiles = map_quantiles(grids)

    # Borders are extended, so values are tied: the quantile lies within its tie.
    for value, share in ((quantiles.low, 0.9), (quantiles.high, 0.995)):
        assert np.mean(pixels < value) <= share + 1e-5
        assert np.mean(pixels <= value) >= share - 1e-5


def test_the_score_is_the_maximum_of_the_placed_combined_map(grids):
    combined = torch.from_numpy(np.stack(grids))
    expected = [place_map(grid, 256, 256).max() for grid in grids]

    np.testing.assert_allclose(image_scores(combined).numpy(), expected, rtol=1e-6)


def test_the_combined_map_is_the_mean_of_both(grids):
    raw = RawMaps(torch.from_numpy(grids[0])[None], torch.from_numpy(grids[1])[None])
    calibration = Calibration(MapQuantiles(0.0, 1.0), MapQuantiles(0.5, 2.0), (0.0,))

    maps = normalize_maps(raw, calibration)

    torch.testing.assert_close(
        maps.combined_map, (maps.local_map + maps.global_map) / 2
    )
    torch.testing.assert_close(maps.local_map, raw.local_map * 0.1)


def test_constant_maps_give_no_scale():
    with pytest.raises(ConfigError, match="give other normal images"):
        map_quantiles([np.ones((GRID_CELLS, GRID_CELLS), np.float32)])


def test_a_level_is_the_harmonic_mean_of_a_map(grids):
    raw = torch.from_numpy(np.stack(grids)) + 0.1
    expected = [hmean(grid, axis=None) for grid in raw.double().numpy()]

    np.testing.assert_allclose(map_levels(raw).numpy(), expected, rtol=1e-5)


def test_a_defect_of_half_the_image_hardly_moves_the_level(grids):
    raw = torch.from_numpy(grids[0])[None] + 0.5
    defective = raw.clone()
    defective[:, : GRID_CELLS // 2] *= 100

    assert float(map_levels(defective) / map_levels(raw)) < 2.1
    assert float(defective.mean() / raw.mean()) > 50


def test_zero_distances_give_a_level_that_divides(grids):
    raw = torch.from_numpy(grids[0])[None]
    raw[0, 0, 0] = 0

    assert torch.isfinite(divided_by_level(raw, 1e-9, 1.0)).all()


def test_images_at_other_levels_within_the_normal_range_score_the_same(grids):
    quantiles = MapQuantiles(1.0, 2.0, least_level=0.01, greatest_level=100.0)
    raw = torch.from_numpy(grids[0])[None] + 0.1

    torch.testing.assert_close(
        normalize_map(3 * raw, quantiles), normalize_map(raw, quantiles)
    )


def test_an_image_that_is_strange_all_over_stays_strange(grids):
    raw = torch.from_numpy(grids[0])[None] + 0.1
    level = float(map_levels(raw))
    quantiles = MapQuantiles(1.0, 2.0, least_level=level, greatest_level=level)

    strange = normalize_map(10 * raw, quantiles)

    torch.testing.assert_close(strange, ((10 * raw / level) - 1.0) * 0.1)
