import numpy as np
import pytest
import torch

from efficientad.errors import ConfigError
from efficientad.method.decision import Calibration, MapQuantiles
from efficientad.method.maps import (
    RawMaps,
    image_scores,
    map_quantiles,
    map_unsteadiness,
    normalize_map,
    normalize_maps,
    weighted,
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


def test_a_weighted_map_reaches_that_share_of_its_height():
    raw, quantiles = torch.tensor([[[2.0, 3.5, 8.0]]]), MapQuantiles(2.0, 5.0)

    halved = normalize_map(raw, weighted(quantiles, 0.5))

    torch.testing.assert_close(halved, 0.5 * normalize_map(raw, quantiles))
    assert weighted(quantiles, 1.0) == quantiles


def test_unsteadiness_is_that_of_the_images_levels_and_knows_no_scale(grids):
    levels = [1.0, 2.0, 3.0]
    lifted = [g - g.mean() + v for g, v in zip(grids, levels, strict=True)]

    found = map_unsteadiness([10 * grid for grid in lifted])

    assert found == pytest.approx(np.std(levels) / 2.0, rel=1e-5)
    assert map_unsteadiness(grids[:1]) == 0
