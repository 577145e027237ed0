"""From a combined map to a score: where a defect counts, and from which area."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from efficientad.decisions.rule import ANYWHERE, Rule, encode_mask
from efficientad.errors import ConfigError, ImageError
from efficientad.inspection.prediction import Prediction
from efficientad.method.placement import measured_map, place_map

SIDE = 256


@pytest.fixture
def grid(rng):
    coarse = rng.normal(size=(7, 7))
    return ndimage.zoom(coarse, 8, order=1).astype(np.float32)


def half(*, left: bool) -> str:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, : SIDE // 2 if left else None] = left
    mask[:, SIDE // 2 :] = not left
    return encode_mask(mask)


def prediction(grid, threshold, rule=ANYWHERE, size=(512, 768)):
    score = float(rule.scores(grid[np.newaxis])[0])
    height, width = size
    return Prediction(score, 0.1, threshold, height, width, {"local": grid}, rule=rule)


def test_without_a_rule_the_score_is_the_maximum(grid):
    assert ANYWHERE.scores(grid[np.newaxis]).tolist() == [grid.max()]


def test_the_whole_image_as_a_region_changes_no_score(grid):
    white = Rule(region_of_interest=encode_mask(np.ones((40, 40), bool)))

    assert white.scores(grid[np.newaxis]).tolist() == [grid.max()]


def test_the_score_is_the_maximum_inside_the_region(grid):
    placed = place_map(grid, SIDE, SIDE)

    for left, inside in ((True, np.s_[:, :128]), (False, np.s_[:, 128:])):
        rule = Rule(region_of_interest=half(left=left))
        assert rule.scores(grid[np.newaxis])[0] == placed[inside].max()


@given(area=st.floats(1e-5, 0.5), seed=st.integers(0, 50))
def test_an_area_is_kept_by_the_highest_level_that_has_it(area, seed):
    rng = np.random.default_rng(seed)
    grid = ndimage.zoom(rng.normal(size=(14, 14)), 4, order=1).astype(np.float32)
    rule = Rule(min_area=area)
    n = int(np.ceil(area * SIDE**2 - 1e-6))
    placed = place_map(grid, SIDE, SIDE)

    score = rule.scores(grid[np.newaxis])[0]

    def largest(mask):
        labels, n_groups = ndimage.label(mask)
        return np.bincount(labels.ravel())[1:].max() if n_groups else 0

    assert largest(placed >= score) >= n
    assert largest(placed > score) < n


def test_regions_are_those_of_scipy(grid):
    threshold = float(np.quantile(grid, 0.8))
    placed = place_map(grid, SIDE, SIDE)
    labels, n = ndimage.label(placed > threshold)
    sizes = np.bincount(labels.ravel())[1:]

    found = prediction(grid, threshold).regions

    assert len(found) == n
    assert [r.area for r in found] == sorted(sizes * 6.0, reverse=True)
    first, label = found[0], 1 + int(sizes.argmax())
    rows, columns = ndimage.find_objects(labels)[label - 1]
    assert (first.x, first.y) == (3 * columns.start, 2 * rows.start)
    assert first.width == 3 * (columns.stop - columns.start)
    assert first.height == 2 * (rows.stop - rows.start)
    assert first.peak == ndimage.maximum(placed, labels, label)
    assert first.mean == pytest.approx(ndimage.mean(placed, labels, label), rel=1e-5)
    y, x = ndimage.center_of_mass(labels == label)
    assert first.centroid_x == pytest.approx(3 * (x + 0.5) - 0.5)
    assert first.centroid_y == pytest.approx(2 * (y + 0.5) - 0.5)


def test_an_image_is_anomalous_if_and_only_if_it_has_a_region(grid):
    for area in (0.0, 0.001, 0.01, 0.1):
        rule = Rule(region_of_interest=half(left=True), min_area=area)
        score = float(rule.scores(grid[np.newaxis])[0])
        for threshold in (score, np.nextafter(score, -np.inf), score - 0.1):
            made = prediction(grid, float(threshold), rule)
            assert made.is_anomalous == bool(made.regions) == made.region_mask.any()
            assert made.is_anomalous == (threshold < score)
            assert made.flagged_for == ("place" if made.is_anomalous else "")
            assert all(region.x < 384 for region in made.regions)


def test_regions_of_unsure_images_lie_above_the_lower_threshold(grid):
    top = float(grid.max())
    made = Prediction(top, 0.1, top, 256, 256, {"m": grid}, unsure_threshold=top - 0.2)

    assert made.decision == "unsure"
    assert made.regions[0].peak == top
    assert Prediction(top, 0.1, top, 256, 256, {"m": grid}).decision == "normal"
    assert (
        Prediction(top, 0.1, top - 0.1, 256, 256, {"m": grid}).decision == "anomalous"
    )


def test_areas_in_millimetres_follow_the_size_of_a_pixel(grid):
    rule = Rule(image_mm2=100.0)
    threshold = float(np.quantile(grid, 0.8))

    for region in prediction(grid, threshold, rule).regions:
        assert region.area_mm2 == pytest.approx(100 * region.area / (512 * 768))


def test_a_cell_counts_if_a_pixel_nearest_to_it_does():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[18, 0] = mask[19, 255] = True  # rows of the first and the second cell

    cells = Rule(region_of_interest=encode_mask(mask)).cells(56, 56)

    assert cells is not None
    assert np.argwhere(cells).tolist() == [[0, 0], [1, 55]]
    assert ANYWHERE.cells(56, 56) is None


def test_a_large_map_keeps_its_maximum(rng):
    grid = rng.random((300, 280)).astype(np.float32)

    measured = measured_map(grid)

    assert measured.shape == (308, 288)
    assert np.unravel_index(measured.argmax(), measured.shape) == tuple(
        4 + index for index in np.unravel_index(grid.argmax(), grid.shape)
    )


def test_a_region_of_another_aspect_is_refused():
    rule = Rule(region_of_interest=encode_mask(np.ones((100, 200), bool)))

    rule.require_aspect(300, 601)
    with pytest.raises(ImageError, match="2 times their height, got one of 100 x 100"):
        rule.require_aspect(100, 100)


@pytest.mark.parametrize("text", ["abc", "!", half(left=True)[:60]])
def test_a_damaged_region_is_refused(text):
    with pytest.raises(ConfigError, match="no stored mask"):
        Rule(region_of_interest=text)


def test_an_empty_region_is_refused():
    with pytest.raises(ConfigError, match="is empty"):
        Rule(region_of_interest=encode_mask(np.zeros((8, 8), bool)))


def test_a_region_thinner_than_a_pixel_of_the_map_is_refused():
    mask = np.zeros((1024, 1024), bool)
    mask[515:518] = True

    with pytest.raises(ConfigError, match="thinner than 1/256 of the image"):
        Rule(region_of_interest=encode_mask(mask))


@pytest.mark.parametrize("size", [(50, 4096), (40, 2000), (90, 8000)])
def test_a_region_of_a_narrow_image_is_of_its_aspect(size):
    rule = Rule(region_of_interest=encode_mask(np.ones(size, bool)))

    rule.require_aspect(*size)
    with pytest.raises(ImageError, match="was drawn for images of"):
        rule.require_aspect(size[0], size[1] // 2)


def test_a_region_keeps_its_pixels_up_to_1024_a_side(rng):
    mask = rng.random((60, 90)) < 0.5

    kept = Rule(region_of_interest=encode_mask(mask)).mask

    np.testing.assert_array_equal(kept, mask)
    large = encode_mask(np.ones((3000, 1500), bool))
    assert Rule(region_of_interest=large).mask.shape == (1024, 512)
