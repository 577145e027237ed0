import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from efficientad.demo_parts import DEFECT_TYPES, write_category
from efficientad.errors import (
    DatasetError,
    MissingDependencyError,
    UndefinedMetricError,
)
from efficientad.evaluation import rendering
from efficientad.evaluation.evaluate import evaluate, image_metrics
from efficientad.images.rgb import as_rgb, image_hash
from efficientad.method.decision import Prediction


class BrightnessPredictor:
    """Its score is the mean brightness: no better than chance, but defined."""

    def __init__(self, **provenance):
        self.provenance = provenance

    def predict(self, image):
        rgb = as_rgb(image)
        score = float(rgb.mean() / 255)
        grid = np.full((56, 56), score, np.float32)
        height, width = rgb.shape[:2]
        return Prediction(score, 0.5, 0.5, height, width, grid, grid)

    def predict_batch(self, images):
        return [self.predict(image) for image in images]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("category") / "parts"
    write_category(folder, n_train=1, n_test_good=2, n_per_defect=1, seed=1, size=64)
    return folder


def test_an_evaluation_measures_all_and_each_defect_type(parts, tmp_path):
    evaluation = evaluate(BrightnessPredictor(), parts, output=tmp_path)

    assert set(evaluation.metrics) == {
        "image_au_roc",
        "image_average_precision",
        "image_f1_max",
        "image_recall_at_fpr_0.01",
        "pixel_au_roc",
        "au_pro",
    }
    assert len(evaluation.metrics_by_defect_type) == 7
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["image_au_roc"] == evaluation.metrics["image_au_roc"]
    report = (tmp_path / "report.html").read_text()
    assert f"<title>{parts.name}: evaluation</title>" in report


@pytest.mark.parametrize("is_dated", [True, False])
def test_a_report_shows_date_and_training_time_unless_undated(
    parts, tmp_path, is_dated
):
    predictor = BrightnessPredictor(training_seconds=212.5, seed=3)
    evaluate(predictor, parts, output=tmp_path, is_dated=is_dated)

    report = (tmp_path / "report.html").read_text()
    assert bool(re.search(r"<bdi>20\d\d-\d\d-\d\d</bdi>", report)) == is_dated
    assert ("212.5" in report) == is_dated
    assert "<dt>seed</dt><dd>3</dd>" in report


def test_a_report_needs_jinja2_before_the_first_prediction(
    parts, tmp_path, monkeypatch
):
    rendering.environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delattr(BrightnessPredictor, "predict")

    with pytest.raises(MissingDependencyError, match="a report needs jinja2"):
        evaluate(BrightnessPredictor(), parts, output=tmp_path)


def test_evaluate_refuses_images_of_the_calibration_but_warns_if_published(
    parts, tmp_path, caplog
):
    normal = min((parts / "test" / "good").iterdir())
    used = {"normal.png": image_hash(as_rgb(normal))}
    predictor = BrightnessPredictor(validation_images=used)
    copy = Path(shutil.copytree(parts, tmp_path / "copy" / "screw"))
    for folder in (copy / "test", copy / "ground_truth"):
        (folder / "scratch").rename(folder / "thread_top")
        for kind in set(DEFECT_TYPES) - {"scratch"}:
            shutil.rmtree(folder / kind)

    with pytest.raises(DatasetError, match="neither trained nor calibrated on"):
        evaluate(predictor, parts)
    evaluate(predictor, copy)

    (warning,) = caplog.messages
    assert "1 of 3 test images" in warning
    assert "the results do not count" in warning


def test_image_metrics_count_defects_above_the_highest_normal_image():
    scores = np.array([0.1, 0.5, 0.4, 0.6, 0.7])

    metrics = image_metrics(scores, np.array([False, False, True, True, True]))

    assert metrics["image_recall_at_fpr_0.01"] == pytest.approx(2 / 3)


def test_a_category_without_defects_has_no_metrics(parts, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "good").symlink_to(parts / "test" / "good")

    with pytest.raises(UndefinedMetricError, match="has no defective ones"):
        evaluate(BrightnessPredictor(), tmp_path)
