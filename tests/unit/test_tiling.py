"""Tiles: the local map of a large image, without seams, by every engine."""

from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

import efficientad
from efficientad.decisions.rule import ANYWHERE, Rule, encode_mask
from efficientad.engines.engine import EngineOutput, Precision, local_grids
from efficientad.engines.pytorch import PyTorchEngine
from efficientad.errors import ConfigError, ImageError
from efficientad.inspection.opening import detector_engine
from efficientad.inspection.tiling import (
    WHOLE,
    grid_shape,
    input_size_for,
    network_views,
    run,
    whole_views,
)
from efficientad.method.maps import combine_maps
from efficientad.method.placement import input_size, place_map, refine_grid
from efficientad.training.config import PAPER
from efficientad.training.paper_step import PaperStep
from efficientad.training.quick import QUICK, QuickStep
from efficientad.training.run import images_for_training
from efficientad.training.step import Material, random_tile


class CountingEngine:
    """The mean of each descriptor's window in place of a local map; counts tiles."""

    precision: Precision = "fp32"
    device: Literal["cpu"] = "cpu"
    is_concurrent = True

    def __init__(self):
        self.n_tiles = 0

    def run(self, pixels):
        blank = np.zeros((len(pixels), 56, 56), np.float32)
        return EngineOutput({"local": blank, "global": blank})

    def run_local(self, pixels):
        self.n_tiles += len(pixels)
        centers = pixels[:, 16:240:4, 16:240:4, 0]
        return centers.astype(np.float32)


@pytest.mark.parametrize("size", [(256, 700), (480, 480), (512, 300), (256, 256)])
def test_tiles_cover_each_cell_once_and_without_seams(size, rng):
    image = rng.integers(0, 256, (1, *size, 3), dtype=np.uint8)
    rows, columns = grid_shape(size)

    found = run(CountingEngine(), image, ANYWHERE).grids["local"]

    if size == WHOLE:
        assert found.shape == (1, 56, 56)
        return
    expected = image[0, 16 : 16 + 4 * rows : 4, 16 : 16 + 4 * columns : 4, 0]
    np.testing.assert_array_equal(found[0], expected)
    assert (input_size(rows), input_size(columns)) == size


@pytest.mark.parametrize("engine", ["pytorch", "native"])
@pytest.mark.parametrize(
    "network", ["small", pytest.param("medium", marks=pytest.mark.slow)]
)
def test_tiled_equals_whole(make_detector, photograph, engine, network):
    detector = make_detector(network)
    image = photograph(320, 516)[np.newaxis]
    expected = PyTorchEngine(detector).run_local(image)

    found = run(detector_engine(detector, engine), image, ANYWHERE).grids["local"]

    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_the_local_map_alone_is_that_of_a_whole_run(make_detector, photograph):
    for engine in ("pytorch", "native"):
        chosen = detector_engine(make_detector(), engine)
        pixels = photograph(256, 256)[np.newaxis]
        expected = chosen.run(pixels).grids["local"]
        np.testing.assert_allclose(local_grids(chosen, pixels), expected, rtol=1e-5)


def test_tiles_outside_of_the_region_are_not_computed(rng):
    image = rng.integers(1, 256, (1, 704, 704, 3), dtype=np.uint8)
    mask = np.zeros((704, 704), bool)
    mask[500:600, 500:600] = True
    rule = Rule(region_of_interest=encode_mask(mask))
    whole, part = CountingEngine(), CountingEngine()

    expected = run(whole, image, ANYWHERE).grids["local"]
    found = run(part, image, rule).grids["local"]

    assert (whole.n_tiles, part.n_tiles) == (9, 1)
    inside = rule.cells(*grid_shape((704, 704)))
    np.testing.assert_array_equal(found[0][inside], expected[0][inside])
    both = {"local": found, "global": np.zeros((1, 56, 56), np.float32)}
    assert rule.scores(combine_maps(both)) == rule.scores(
        combine_maps(both | {"local": expected})
    )


def test_networks_see_images_whole_and_tiles_from_all_places(rng):
    images = rng.integers(0, 256, (4, 480, 704, 3), np.uint8)

    views = network_views(images)

    assert views.shape == (8, 256, 256, 3)
    np.testing.assert_array_equal(views[:4], whole_views(images))
    np.testing.assert_array_equal(views[4], images[0, :256, :256])
    np.testing.assert_array_equal(views[7], images[3, 224:480, 224:480])
    assert network_views(views) is views


def test_a_coarse_map_is_drawn_at_the_same_place_on_a_finer_grid(rng):
    grid = rng.random((56, 56)).astype(np.float32)

    fine = refine_grid(grid, 248, 120)

    placed = place_map(grid, input_size(248), input_size(120))
    expected = placed[16 : 16 + 4 * 248 : 4, 16 : 16 + 4 * 120 : 4]
    np.testing.assert_allclose(fine, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "tile", "scale", "expected"),
    [
        ((1000, 1000), None, None, (256, 256)),
        ((1000, 1000), 256, None, (1000, 1000)),
        ((1000, 1500), 256, 2.0, (512, 768)),
        ((501, 1263), 256, None, (500, 1264)),
        ((100, 100), 256, None, (256, 256)),
        ((4000, 6000), 256, None, (2048, 3072)),
        ((500, 1263), "auto", None, (500, 1264)),
        ((400, 400), "auto", None, (256, 256)),
        ((900, 900), "auto", None, (900, 900)),
        ((500, 1263), None, None, (500, 1264)),
        ((1300, 3000), None, None, (512, 1180)),
        ((200, 630), None, None, (256, 808)),
        ((800, 1600), None, None, (256, 256)),
        ((20, 1600), None, None, (256, 256)),
        ((500, 1263), "never", None, (256, 256)),
    ],
)
def test_the_input_size_follows_from_the_images(size, tile, scale, expected):
    assert input_size_for(size, tile, scale) == expected


def test_a_scale_without_tiles_and_too_long_images_get_one_sentence():
    with pytest.raises(ConfigError, match="--scale needs tiles"):
        input_size_for((500, 500), None, 2.0)
    with pytest.raises(ConfigError, match="give a smaller --scale"):
        input_size_for((100, 9000), 256, 2.0)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory, photograph):
    """A detector of 3 steps on tiles of images of 280 x 420 pixels."""
    folder = tmp_path_factory.mktemp("tiled")
    (folder / "good").mkdir()
    for seed in range(10):
        image = Image.fromarray(photograph(280, 420, seed))
        image.save(folder / "good" / f"{seed}.png")
    config = efficientad.TrainConfig(preset="quick", steps=3, tile=256, batch_size=2)
    path = folder / "part.ead"
    efficientad.train(folder / "good", config, output=path)
    return path


def test_a_tiled_detector_predicts_in_the_image_s_own_frame(tiled, photograph):
    predictor = efficientad.load(tiled)
    assert predictor.preparation.size == (280, 420)

    prediction = predictor.predict(photograph(560, 840))

    assert prediction.grids["local"].shape == grid_shape((280, 420))
    assert prediction.grids["global"].shape == (56, 56)
    assert prediction.anomaly_map.shape == (560, 840)
    assert prediction.image_score == prediction.combined_grid.max()
    scales = predictor.calibration.scales
    assert scales["local"].places is not None
    assert scales["global"].places is None
    with pytest.raises(ImageError, match=r"1\.5 times their height, got one of 300 x"):
        predictor.predict(photograph(300, 300))


def test_every_engine_and_export_gives_the_same_tiled_maps(tiled, photograph, tmp_path):
    predictor = efficientad.load(tiled)
    image = photograph(280, 420, 3)
    expected = predictor.predict(image)
    for suffix in (".onnx", ".xml"):
        path = tmp_path / f"part{suffix}"
        efficientad.export(predictor, path)
        found = efficientad.load(path).predict(image)
        assert found.image_score == pytest.approx(expected.image_score, rel=1e-3)
        for name, grid in expected.grids.items():
            scale = np.abs(grid).max()
            np.testing.assert_allclose(found.grids[name], grid, atol=1e-3 * scale)


def test_a_tiled_detector_is_calibrated_again(tiled, photograph):
    predictor = efficientad.load(tiled)
    images = [photograph(280, 420, seed) for seed in range(20, 23)]

    again = efficientad.calibrate(predictor, images)

    scores = sorted(again.predict(image).image_score for image in images)
    np.testing.assert_allclose(again.calibration.normal_scores, scores, rtol=1e-5)
    assert again.preparation.size == predictor.preparation.size
    places = predictor.calibration.scales["local"].places
    assert again.calibration.scales["local"].places == places


def test_training_needs_images_of_one_aspect(photograph):
    images = [photograph(280, 420, seed) for seed in range(10)]
    config = efficientad.TrainConfig(preset="quick", steps=1, tile=256)

    with pytest.raises(ImageError, match="train another detector for it"):
        efficientad.train([*images, photograph(300, 300)], config)


def test_narrow_images_are_tiled_unasked_unless_others_are_among_them(photograph):
    narrow = [photograph(60, 150 + seed, seed) for seed in range(10)]
    config = efficientad.TrainConfig()

    def size_of(images, *, unasked):
        training, _ = images_for_training(images, config, unasked=unasked)
        return training.size

    assert size_of(narrow, unasked=True) == (256, 640)
    assert size_of([*narrow, photograph(60, 60)], unasked=True) == WHOLE
    assert size_of(narrow, unasked=False) == WHOLE


def test_too_many_large_images_get_one_sentence(monkeypatch, photograph):
    from efficientad.calibration import normal_images

    monkeypatch.setattr(normal_images, "_MEMORY_SHARE", 1e-6)
    config = efficientad.TrainConfig(preset="quick", steps=1, tile=256)

    with pytest.raises(ConfigError, match=r"10 images in tiles need 0\.0 GB"):
        efficientad.train([photograph(280, 420, seed) for seed in range(10)], config)


@pytest.fixture
def positions():
    """An image of 320 x 480 pixels that tell their row and column, halved."""
    rows, columns = np.indices((320, 480)) // 2
    return np.stack([rows, columns, rows], axis=-1).astype(np.uint8)


def test_tiles_of_a_training_come_from_anywhere(positions, rng):
    tiles = [random_tile(positions, rng) for _ in range(100)]

    corners = np.array([tile[0, 0, :2] for tile in tiles])
    assert {tile.shape for tile in tiles} == {(256, 256, 3)}
    assert corners.min(0).tolist() == pytest.approx([0, 0], abs=6)
    assert corners.max(0).tolist() == pytest.approx([32, 112], abs=6)


def test_a_step_of_paper_learns_from_tiles(make_detector, positions):
    wholes = whole_views(positions[np.newaxis])
    teacher = make_detector().teacher
    material = Material(
        teacher, wholes, None, torch.device("cpu"), positions[np.newaxis]
    )
    step = PaperStep(material, PAPER)

    drawn = step.draw(np.random.default_rng(0))

    span = drawn.images.amax((2, 3)) - drawn.images.amin((2, 3))
    whole = material.normalized(torch.from_numpy(wholes))
    assert (span < whole.amax((2, 3)) - whole.amin((2, 3))).all()


def test_windows_of_quick_lie_on_the_grid_of_the_whole_map(make_detector, positions):
    tiled = positions[np.newaxis]
    material = Material(
        make_detector().teacher, whole_views(tiled), None, torch.device("cpu"), tiled
    )
    step = QuickStep(material, QUICK)

    windows = step._tile_windows([positions] * 60, np.random.default_rng(0)).numpy()

    corners = 2 * windows[1:, 0, 0, :2].astype(int)  # the first one is changed
    assert QUICK.window_cells == 28
    assert set(corners[:, 0]) == {0, 112, 176}
    assert set(corners[:, 1]) == {0, 112, 224, 336}
