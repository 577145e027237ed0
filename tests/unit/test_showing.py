"""Predictions for people: sentences, pictures, dictionaries and data frames."""

import io
import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.fake_engines import brightness_predictor

import efficientad
from efficientad.errors import ConfigError, ImageError, MissingDependencyError
from efficientad.images.heatmaps import THRESHOLD_COLOR
from efficientad.inspection.prediction import Prediction, Predictions


def prediction_of(image_score=0.3, height=90, width=60, **more):
    grid = np.zeros((56, 56), np.float32)
    grid[20:30, 20:30] = image_score
    grids = {"local": grid, "global": grid}
    return Prediction(image_score, 1 / 23, 0.2, height, width, grids, **more)


@pytest.fixture
def part(tmp_path):
    path = tmp_path / "part.png"
    Image.new("RGB", (60, 90), (120, 120, 120)).save(path)
    return path


def has_color(image, color):
    return bool((image == color).all(axis=2).any())


# Sentences


def test_a_prediction_reads_as_a_sentence(part):
    assert repr(prediction_of(path=part, n_normal=22)) == (
        "<Prediction part.png: anomalous, score 0.3 > threshold 0.2, p-value below 1 "
        "in 23, 60 x 90 pixels>"
    )
    assert str(prediction_of(0.1)) == (
        "normal, score 0.1 ≤ threshold 0.2, p-value 0.043"
    )


@pytest.mark.parametrize(
    ("p_value", "n_normal", "text"),
    [
        (1 / 23, 22, "below 1 in 23"),
        (2 / 23, 22, "0.087"),
        (2 / 46, 45, "0.043"),
        (1.0, 22, "1"),
        (1 / 23, None, "0.043"),
    ],
)
def test_a_p_value_at_its_floor_is_a_bound(p_value, n_normal, text):
    prediction = replace(prediction_of(), p_value=p_value, n_normal=n_normal)

    assert prediction.p_value_text == text


def test_the_predictor_counts_the_images_behind_the_p_value():
    prediction = brightness_predictor().predict(np.full((9, 9, 3), 255, np.uint8))

    assert prediction.p_value_text == "below 1 in 2"


def test_a_predictor_is_one_paragraph():
    names = {f"/data/bottle/train/good/{n}.png": "" for n in range(54)}
    predictor = brightness_predictor(training_images=names, made_on="2026-11-29")

    assert repr(predictor) == (
        "<Predictor small, trained on 54 normal images of 'bottle' on 2026-11-29; "
        "threshold 0.5 from 1 held-out images; BrightnessEngine, fp32 on cpu>"
    )


def test_what_is_unknown_of_a_training_is_not_made_up():
    of_arrays = brightness_predictor(training_images={"image 0": "", "image 1": ""})

    assert "trained on 2 normal images; threshold" in repr(of_arrays)
    assert "of unknown training images; threshold" in repr(brightness_predictor())


def test_the_networks_are_one_line_and_have_no_threshold(make_detector):
    detector = make_detector(n_local=64, n_global=32)

    assert repr(detector).startswith(
        "<Detector small, 64 local and 32 global channels, "
    )
    assert repr(detector).endswith(" million parameters, on cpu>")
    with pytest.raises(ConfigError, match="call with_threshold of the predictor"):
        detector.threshold = 0.2


# Thresholds


def test_a_threshold_cannot_be_set_and_the_message_says_what_to_call():
    predictor = brightness_predictor()

    with pytest.raises(ConfigError, match="got a new threshold; call with_threshold"):
        predictor.threshold = 0.2
    with pytest.raises(ConfigError, match="predict again"):
        prediction_of().threshold = 0.2
    with pytest.raises(ConfigError, match=r"dataclasses\.replace"):
        predictor.calibration.threshold = 0.2


def test_with_threshold_returns_another_predictor():
    predictor = brightness_predictor()
    image = np.full((9, 9, 3), 100, np.uint8)

    lower = predictor.with_threshold(0.3)

    assert (predictor.threshold, lower.threshold) == (0.5, 0.3)
    assert not predictor.predict(image).is_anomalous
    assert lower.predict(image).is_anomalous


# Pictures


def test_an_overlay_has_the_image_s_size_and_shows_what_is_above(part):
    above = prediction_of(0.3, path=part).overlay()
    below = prediction_of(0.1, path=part).overlay()

    assert above.shape == below.shape == (90, 60, 3)
    assert has_color(above, THRESHOLD_COLOR)
    assert not has_color(below, THRESHOLD_COLOR)


def test_regions_have_boxes():
    image = np.full((400, 600, 3), 120, np.uint8)
    large = prediction_of(0.3, 400, 600)

    drawn = large.overlay(image)

    (region,) = large.regions
    box = drawn[region.y : region.y + region.height, region.x : region.x + region.width]
    assert (box != 120).any(axis=2).all()


def test_the_decision_stands_at_the_upper_edge():
    image = np.full((400, 600, 3), 120, np.uint8)
    large = prediction_of(0.1, 400, 600)

    drawn = large.overlay(image)
    other = replace(large, image_score=0.15).overlay(image)

    assert (drawn[:30] != other[:30]).any()
    np.testing.assert_array_equal(drawn[30:], other[30:])
    np.testing.assert_array_equal(drawn[300:], image[300:])


def test_an_image_given_as_pixels_is_not_kept_but_asked_for():
    image = np.full((90, 60, 3), 120, np.uint8)
    prediction = brightness_predictor().predict(image)

    with pytest.raises(ImageError, match="keeps none; give the image"):
        prediction.overlay()
    assert prediction.overlay(image).shape == image.shape
    assert len(pickle.dumps(prediction)) < 40_000


def test_an_image_of_another_size_is_refused(part):
    prediction = prediction_of(height=60, width=90, path=part)

    with pytest.raises(ImageError, match="90 x 60 pixels was needed, got one of 60 x"):
        prediction.overlay()


def test_every_way_to_give_a_file_is_remembered(part):
    predictor = brightness_predictor()
    with Image.open(part) as opened:
        of_pillow = predictor.predict(opened)

    assert predictor.predict(str(part)).path == part
    assert [each.path for each in predictor.predict_batch([part])] == [part]
    assert [each.path for each in efficientad.predictions(predictor, [part])] == [part]
    assert of_pillow.path is None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp", ".tif", ".bmp"])
def test_a_prediction_is_saved_in_the_format_of_its_name(part, tmp_path, suffix):
    prediction_of(path=part).save(tmp_path / "new" / f"drawn{suffix}")

    with Image.open(tmp_path / "new" / f"drawn{suffix}") as drawn:
        assert drawn.size == (60, 90)


def test_a_name_of_no_image_is_refused(part, tmp_path):
    with pytest.raises(ConfigError, match=r"got part\.pdf; end it in one of \.png"):
        prediction_of(path=part).save(tmp_path / "part.pdf")


def test_matplotlib_shows_a_prediction(part):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    prediction_of(path=part).show(axes=axes)

    (shown,) = axes.get_images()
    np.testing.assert_array_equal(shown.get_array(), prediction_of(path=part).overlay())
    assert axes.get_title().startswith("part.png: anomalous")


def test_a_notebook_shows_the_sentence_and_a_panel(part):
    prediction = prediction_of(path=part)

    with Image.open(io.BytesIO(prediction._repr_png_())) as panel:
        assert panel.height == 256 + 36
    assert "part.png: anomalous, score 0.3 &gt; threshold" in prediction._repr_html_()
    assert 'src="data:image/png;base64,' in prediction._repr_html_()


def test_a_notebook_shows_the_maps_of_an_image_that_is_gone(part):
    there = prediction_of(path=part)._repr_png_()
    part.unlink()

    assert prediction_of(path=part)._repr_png_() == prediction_of()._repr_png_()
    assert prediction_of()._repr_png_() != there


# Data


def test_a_prediction_becomes_json(part):
    prediction = prediction_of(path=part, terms={"composition": 0.25})

    found = json.loads(json.dumps(prediction.to_dict()))

    (region,) = found.pop("regions")
    assert region["peak"] == pytest.approx(0.3)
    assert found == {
        "path": str(part),
        "image_score": 0.3,
        "p_value": 1 / 23,
        "threshold": 0.2,
        "is_anomalous": True,
        "decision": "anomalous",
        "flagged_for": "place",
        "height": 90,
        "width": 60,
        "terms": {"composition": 0.25},
    }


def test_predictions_become_a_data_frame(part, tmp_path):
    (tmp_path / "more").mkdir()
    Image.new("RGB", (60, 90), (255, 255, 255)).save(tmp_path / "more" / "white.png")

    found = brightness_predictor().predict_batch(tmp_path)

    frame = found.to_pandas()
    assert frame["path"].tolist() == [str(tmp_path / "more" / "white.png"), str(part)]
    assert frame["is_anomalous"].tolist() == [True, False]
    assert repr(found) == "<Predictions of 2 images, 1 anomalous>"
    assert "<li>white.png: anomalous" in found._repr_html_()


def test_terms_are_columns():
    frame = Predictions([prediction_of(terms={"composition": 0.25})]).to_pandas()

    assert frame["terms.composition"].tolist() == [0.25]


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("pandas", lambda _: Predictions().to_pandas()),
        ("matplotlib", lambda part: prediction_of(path=part).show()),
    ],
)
def test_a_package_that_is_missing_is_named(monkeypatch, part, package, call):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDependencyError, match=f"run: pip install {package}"):
        call(part)


# Lists, folders and patterns


def test_a_folder_or_pattern_is_a_batch(part, tmp_path):
    predictor = brightness_predictor()

    for place in (tmp_path, str(tmp_path / "*.png"), tmp_path / "p?rt.png", part):
        assert [each.path for each in predictor.predict_batch(place)] == [part]


def test_a_file_with_a_star_in_its_name_is_a_file(part, tmp_path):
    odd = part.rename(tmp_path / "part[1].png")

    assert [p.path for p in brightness_predictor().predict_batch(odd)] == [odd]


# Red and blue


def test_exchanged_colors_are_noticed_once(caplog):
    looks = {"redness": [40.0, 50.0, 60.0]}
    predictor = brightness_predictor(validation_appearance=looks)
    orange = np.full((60, 90, 3), (120, 90, 70), np.uint8)

    assert predictor.predict(orange).image_score > 0
    assert not caplog.messages
    predictor.predict(orange, color="bgr")
    predictor.predict(orange, color="bgr")

    (message,) = caplog.messages
    assert "OpenCV's need color='bgr'" in message


def test_colors_of_a_large_image_are_sampled(monkeypatch):
    shapes = []

    def redness(pixels):
        shapes.append(pixels.shape)
        return 0.0

    monkeypatch.setattr("efficientad.inspection.predictor.redness", redness)

    brightness_predictor().compare_colors(np.zeros((1024, 2048, 3), np.uint8))

    assert shapes == [(256, 512, 3)]


@pytest.mark.parametrize("normal", [[], [1.0, 2.0, 1.5], [50.0, -50.0, 50.0, -50.0]])
def test_gray_and_mixed_parts_have_no_order_of_colors(caplog, normal):
    predictor = brightness_predictor(validation_appearance={"redness": normal})

    predictor.predict(np.full((60, 90, 3), (70, 90, 120), np.uint8))

    assert not caplog.messages
