import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.fake_engines import BrightnessEngine, brightness_predictor

from efficientad.demo_parts import DEFECT_TYPES, write_category
from efficientad.errors import (
    DatasetError,
    MissingDependencyError,
    StorageError,
    UndefinedMetricError,
)
from efficientad.evaluation.evaluate import evaluate, image_metrics
from efficientad.evaluation.report import environment
from efficientad.images.rgb import as_rgb, image_hash


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("category") / "parts"
    write_category(folder, n_train=1, n_test_good=2, n_per_defect=1, seed=1, size=64)
    return folder


def test_an_evaluation_measures_all_and_each_defect_type(parts, tmp_path):
    evaluation = evaluate(brightness_predictor(), parts, output=tmp_path)

    assert set(evaluation.metrics) == {
        "image_au_roc",
        "image_au_roc_held_out",
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


@pytest.mark.parametrize("full", ["metrics.json", "report.html"])
def test_both_results_of_a_run_appear_or_none(parts, tmp_path, monkeypatch, full):
    def write(path, content):
        if (full == "metrics.json") == content.startswith(b"{"):
            raise OSError(28, "No space left on device")
        plain_write(path, content)

    for name in ("metrics.json", "report.html"):
        (tmp_path / name).write_text("of an earlier run")
    plain_write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", write)

    with pytest.raises(StorageError, match=rf"{full} \(No space left"):
        evaluate(brightness_predictor(), parts, output=tmp_path)

    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert contents == dict.fromkeys(
        ("metrics.json", "report.html"), "of an earlier run"
    )


def test_a_test_without_normal_images_says_how_to_name_them(parts, tmp_path):
    category = shutil.copytree(parts, tmp_path / "parts")
    (category / "test" / "good").rename(category / "test" / "intact")

    with pytest.raises(UndefinedMetricError, match="in a folder named good, or"):
        evaluate(brightness_predictor(), category)


def test_files_that_are_not_used_are_told(parts, tmp_path, caplog):
    category = shutil.copytree(parts, tmp_path / "parts")
    (category / "test/good/1.avif").touch()

    evaluate(brightness_predictor(), category)

    assert "parts: .avif files (1)" in caplog.text


def test_a_report_of_few_images_shows_those_near_the_threshold_and_high_normal_ones(
    parts, tmp_path, monkeypatch
):
    monkeypatch.setattr("efficientad.evaluation.evaluate.MAX_PICTURES", 1)
    evaluation = evaluate(brightness_predictor(), parts, output=tmp_path)

    report = (tmp_path / "report.html").read_text()
    by_distance = sorted(
        evaluation.scores, key=lambda s: abs(s.image_score - evaluation.threshold)
    )
    normal = {s.name for s in evaluation.scores if s.defect_type == "good"}
    shown = set(re.findall(r'data-name="([^"]*)"', report))
    assert shown == {by_distance[0].name} | normal


@pytest.mark.parametrize("is_dated", [True, False])
def test_a_report_shows_date_and_training_time_unless_undated(
    parts, tmp_path, is_dated
):
    predictor = brightness_predictor(training_seconds=212.5, seed=3)
    evaluate(predictor, parts, output=tmp_path, is_dated=is_dated)

    report = (tmp_path / "report.html").read_text()
    assert bool(re.search(r"<bdi>20\d\d-\d\d-\d\d</bdi>", report)) == is_dated
    assert ("212.5" in report) == is_dated
    assert "<dt>seed</dt><dd>3</dd>" in report


def test_a_report_needs_jinja2_before_the_first_prediction(
    parts, tmp_path, monkeypatch
):
    predictor = brightness_predictor()
    environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr(BrightnessEngine, "run", lambda *_: pytest.fail("predicted"))

    with pytest.raises(MissingDependencyError, match="a report needs jinja2"):
        evaluate(predictor, parts, output=tmp_path)


def test_evaluate_refuses_images_of_the_calibration_but_warns_if_published(
    parts, tmp_path, caplog
):
    normal = min((parts / "test" / "good").iterdir())
    used = {"normal.png": image_hash(as_rgb(normal))}
    predictor = brightness_predictor(validation_images=used)
    copy = Path(shutil.copytree(parts, tmp_path / "copy" / "screw"))
    for folder in (copy / "test", copy / "ground_truth"):
        (folder / "scratch").rename(folder / "thread_top")
        for kind in set(DEFECT_TYPES) - {"scratch"}:
            shutil.rmtree(folder / kind)

    with pytest.raises(DatasetError, match="neither trained nor calibrated on"):
        evaluate(predictor, parts)
    evaluate(predictor, copy)

    (warning,) = [text for text in caplog.messages if "calibrated on" in text]
    assert "1 of 3 test images" in warning
    assert "the results do not count" in warning


def test_a_model_that_does_not_name_its_training_images_is_not_evaluated(parts):
    unknown = replace(brightness_predictor(), provenance={"seed": 3})

    with pytest.raises(DatasetError, match="does not name them; train it again"):
        evaluate(unknown, parts)


def test_image_metrics_count_defects_above_the_highest_normal_image():
    scores = np.array([0.1, 0.5, 0.4, 0.6, 0.7])

    metrics = image_metrics(scores, np.array([False, False, True, True, True]))

    assert metrics["image_recall_at_fpr_0.01"] == pytest.approx(2 / 3)


def test_held_out_normal_images_stand_in_for_good_test_images(parts):
    predictor = brightness_predictor()
    low, high = (
        replace(predictor.calibration, normal_scores=(score,) * 9)
        for score in (-1e3, 1e3)
    )

    above = evaluate(replace(predictor, calibration=low), parts)
    below = evaluate(replace(predictor, calibration=high), parts)

    assert above.metrics["image_au_roc_held_out"] == 1
    assert below.metrics["image_au_roc_held_out"] == 0
    assert above.metrics["image_au_roc"] == below.metrics["image_au_roc"]


def test_good_test_images_of_another_session_are_reported(parts, tmp_path, caplog):
    bright = {"brightness": [250 + 0.1 * i for i in range(30)]}
    predictor = brightness_predictor(validation_appearance=bright)
    category = tmp_path / "parts"
    shutil.copytree(parts, category)
    good = next((category / "test" / "good").iterdir())
    for index in range(20):
        shutil.copy(good, good.with_name(f"copy_{index}.png"))

    evaluation = evaluate(predictor, category, output=tmp_path / "out")

    found = {shift.quantity for shift in evaluation.shifts}
    assert "brightness" in found
    assert not {"contrast", "sharpness"} & found
    assert "good test images are darker than held-out normal images" in caplog.text
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Warning: good test images are darker" in report
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "brightness" in {shift["quantity"] for shift in metrics["shifts"]}


def test_a_category_without_defects_has_no_metrics(parts, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "good").symlink_to(parts / "test" / "good")

    with pytest.raises(UndefinedMetricError, match="has no defective ones"):
        evaluate(brightness_predictor(), tmp_path)


def test_the_sentence_counts_what_the_decision_finds(parts):
    evaluation = evaluate(brightness_predictor().with_threshold(0.0), parts)

    assert str(evaluation) == "found 7 of 7 defects, 2 of 2 false alarms"


@pytest.mark.parametrize(("threshold", "is_warned"), [(0.0, True), (1.0, False)])
def test_pictures_of_another_product_are_a_warning(parts, caplog, threshold, is_warned):
    evaluate(brightness_predictor().with_threshold(threshold), parts)

    warning = "2 of 2 good test images score above the threshold, as images of another"
    assert (warning in caplog.text) == is_warned
