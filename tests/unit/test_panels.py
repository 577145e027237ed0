"""An image beside its maps: one picture for each named map, all on one scale."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from efficientad.images.heatmaps import THRESHOLD_COLOR, heatmap
from efficientad.inspection import panels
from efficientad.inspection.panels import prediction_panel, prediction_tiles
from efficientad.inspection.prediction import Prediction


def prediction_of(height, width, local=0.0, overall=0.0, image_score=0.5):
    """Constant maps: the colors of a panel are known without looking."""
    values = {"local": local, "global": overall}
    grids = {k: np.full((56, 56), value, np.float32) for k, value in values.items()}
    return Prediction(
        image_score, 0.1, 0.2, height, width, grids, normal_range=(0.02, 0.2)
    )


def gray_image(height, width, value=120):
    return np.full((height, width, 3), value, np.uint8)


def has_color(image, color):
    return bool((image == color).all(axis=2).any())


def tile_count(picture):
    """Tiles are separated by columns of background."""
    middle = (picture[100:200] != 255).any(axis=(0, 2)).astype(int)
    return int((np.diff(np.pad(middle, 1)) == 1).sum())


def test_a_prediction_is_shown_with_its_three_maps_and_the_scale():
    picture = prediction_panel(gray_image(300, 200), prediction_of(300, 200))

    assert tile_count(picture) == 5


def test_a_panel_shows_each_map_in_its_place():
    image = gray_image(256, 256)

    picture = prediction_panel(image, prediction_of(256, 256, local=0.4))
    local_tile, global_tile = picture[150, 400], picture[150, 660]

    assert local_tile.tolist() == [252, 255, 164]
    assert global_tile.tolist() == [0, 0, 4]


@pytest.mark.parametrize("names", [["local"], ["local", "global", "texture"]])
def test_a_panel_has_a_picture_for_each_named_map(names):
    prediction = prediction_of(300, 200)
    grids = {name: np.zeros((56, 56), np.float32) for name in names}
    named = replace(prediction, grids=grids)
    image = gray_image(300, 200)

    tiles = prediction_tiles(image, named)

    assert [t.caption for t in tiles] == [*(f"{n} map" for n in names), "combined map"]
    assert tile_count(prediction_panel(image, named)) == len(names) + 3


def test_what_exceeds_the_threshold_is_outlined():
    image = gray_image(256, 256)

    below = prediction_panel(image, prediction_of(256, 256, local=0.2, overall=0.19))
    above = prediction_panel(image, prediction_of(256, 256, local=0.2, overall=0.21))

    assert not has_color(below, THRESHOLD_COLOR)
    assert has_color(above, THRESHOLD_COLOR)


def corner_cell(value):
    grid = np.zeros((56, 56), np.float32)
    grid[0, 0] = value
    return {"local": grid, "global": grid}


def test_a_corner_cell_is_no_square_but_fades_towards_the_border():
    prediction = replace(prediction_of(256, 256), grids=corner_cell(0.3))
    picture = prediction_tiles(gray_image(256, 256), prediction)[0].image.sum(axis=2)

    along = picture[16, :17].astype(int)
    assert picture[0, 0] == picture[0, 16] == picture[16, 0] == picture[200, 200]
    assert (np.diff(along) >= 0).all()
    assert along[16] > along[8] > along[0]
    assert prediction.map("local")[0, 0] == np.float32(0.3)  # the map itself stays


def test_a_corner_cell_above_the_threshold_is_outlined():
    prediction = replace(prediction_of(256, 256), grids=corner_cell(0.21))

    picture = prediction_tiles(gray_image(256, 256), prediction)[-1].image

    assert has_color(picture, THRESHOLD_COLOR)


def test_a_defect_below_a_threshold_set_by_hand_stays_in_its_overlay():
    image = gray_image(256, 256)
    derived = prediction_of(256, 256, local=0.15, overall=0.15)
    by_hand = replace(derived, threshold=2.0)

    seen, same = (prediction_tiles(image, p)[-1].image for p in (derived, by_hand))

    np.testing.assert_array_equal(seen, same)
    assert np.abs(seen[128, 128].astype(int) - 120).max() > 25


def test_what_most_normal_images_reach_leaves_no_haze():
    image = gray_image(256, 256)

    *_, combined = prediction_tiles(image, prediction_of(256, 256, 0.01, 0.01))

    np.testing.assert_array_equal(combined.image, image)


def test_the_decision_stands_above_the_image():
    image = gray_image(256, 256)
    normal = prediction_panel(image, prediction_of(256, 256, image_score=0.1))
    anomalous = prediction_panel(image, prediction_of(256, 256, image_score=0.3))

    captions = np.s_[:28, :264]
    assert (normal[captions] != anomalous[captions]).any()
    np.testing.assert_array_equal(normal[28:], anomalous[28:])


def test_maps_are_drawn_at_the_panel_s_size_and_never_at_the_image_s(monkeypatch):
    """Else a panel of a 200-megapixel image would need gigabytes."""
    drawn = []

    def watched(anomaly_map, **scale):
        drawn.append(anomaly_map.shape)
        return heatmap(anomaly_map, **scale)

    monkeypatch.setattr(panels, "heatmap", watched)
    prediction = prediction_of(1000, 500)
    prediction_panel(gray_image(1000, 500), prediction)

    assert set(drawn) == {(256, 128)}
    assert "anomaly_map" not in vars(prediction)


@pytest.mark.parametrize("size", [(8, 8), (8, 4000), (4000, 8)])
def test_images_of_any_shape_get_a_panel(size):
    picture = prediction_panel(gray_image(*size), prediction_of(*size))

    assert picture.shape[0] == 256 + 36
    assert picture.shape[1] < 256 * 3 * 5
    Image.fromarray(picture)
