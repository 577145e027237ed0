"""Levels of 16-bit images, from the training to every prediction."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

import efficientad
from efficientad.errors import ConfigError, ImageError
from efficientad.images.rgb import as_rgb, read_image

LEVELS = (64, 4095)


def deep(image, path):
    """Write a gray image as a camera of 12 bits does; return it with 8 bits."""
    low, high = LEVELS
    values = np.round(low + image / 255.0 * (high - low)).astype(np.uint16)
    Image.fromarray(values).save(path)
    return np.repeat(image[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep")
    (folder / "good").mkdir()
    rng = np.random.default_rng(3)
    for number in range(12):
        image = rng.integers(0, 256, (64, 64), dtype=np.uint8)
        deep(image, folder / "good" / f"{number}.png")
    config = efficientad.TrainConfig(preset="quick", steps=2, levels=LEVELS)
    path = folder / "part.ead"
    efficientad.train(folder / "good", config, output=path)
    return path


def test_levels_become_black_and_white(tmp_path, rng):
    image = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    expected = deep(image, tmp_path / "deep.png")

    found = read_image(tmp_path / "deep.png", levels=LEVELS)

    np.testing.assert_array_equal(found, expected)
    outside = as_rgb(np.array([[0, 65535]] * 8, np.uint16).repeat(8, 1), levels=LEVELS)
    assert np.unique(outside).tolist() == [0, 255]
    np.testing.assert_array_equal(as_rgb(image, levels=LEVELS), expected)


def test_levels_of_a_file_with_16_bits_in_color_are_refused(tmp_path):
    values = np.full((9, 9, 3), 4000, np.uint16)
    tifffile.imwrite(tmp_path / "color.tif", values, photometric="rgb")
    with pytest.raises(ImageError, match="is a file in color, of which the upper 8"):
        read_image(tmp_path / "color.tif", levels=LEVELS)


@pytest.mark.parametrize("levels", [(5, 5), (-1, 9), (0, 65536), (4095, 0)])
def test_levels_that_are_no_range_are_refused(levels):
    with pytest.raises(ConfigError, match=r"levels"):
        efficientad.TrainConfig(levels=levels)


def test_every_form_of_a_detector_keeps_the_levels(trained, tmp_path, rng):
    image = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    path = tmp_path / "part.png"
    rgb = deep(image, path)
    predictor = efficientad.load(trained)
    expected = predictor.predict(rgb).image_score
    efficientad.export(predictor, tmp_path / "part.onnx")

    assert predictor.preparation.levels == LEVELS
    assert predictor.predict(path).image_score == expected
    exported = efficientad.load(tmp_path / "part.onnx")
    assert exported.predict(path).image_score == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ConfigError, match="has levels of 16-bit images"):
        efficientad.export(predictor, tmp_path / "part.native")
    efficientad.predict(predictor, [path], output=tmp_path / "out")
    line = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8")
    assert json.loads(line)["image_score"] == pytest.approx(expected)


def test_other_normal_images_are_read_with_the_levels(trained, tmp_path, rng):
    for folder in ("deep", "plain"):
        (tmp_path / folder).mkdir()
    for name in ("0.png", "1.png"):
        image = rng.integers(0, 256, (64, 64), dtype=np.uint8)
        rgb = deep(image, tmp_path / "deep" / name)
        Image.fromarray(rgb).save(tmp_path / "plain" / name)

    def scores(folder):
        images, copy = tmp_path / folder, tmp_path / f"{folder}.ead"
        calibrated = efficientad.calibrate(efficientad.load(trained), images)
        changed = efficientad.threshold(trained, copy, images=images)
        return calibrated.calibration.normal_scores, changed.normal_scores

    assert scores("deep") == scores("plain")
