"""Speed beside accuracy, recorded by predictors that compute nothing."""

import json
from argparse import Namespace
from dataclasses import replace

import pytest
from tests.fake_engines import BrightnessEngine, brightness_predictor

import efficientad
from efficientad.errors import ConfigError, ExportMismatchError, ResultError
from efficientad_lab.benchmark.candidates import BASELINE
from lab.experiments.deployment import run as deployment
from lab.experiments.deployment.run import measure, opened, runs


class CountingEngine(BrightnessEngine):
    """An engine that counts the images."""

    n_images = 0

    def run(self, pixels):
        self.n_images += len(pixels)
        return super().run(pixels)


@pytest.fixture
def predictors():
    names = (BASELINE, "OpenVINO int8")
    return {
        name: replace(brightness_predictor(), engine=CountingEngine()) for name in names
    }


def n_images(predictors):
    return [predictor.engine.n_images for predictor in predictors.values()]


def metrics(_predictor):
    return {"image_au_roc": 0.9, "au_pro": 0.8, "other": 0.7}


OF = {"detector": "1", "commit": "2"}


def test_all_are_called_equally_often_and_everything_is_kept(predictors, tmp_path):
    path = tmp_path / "deployment.json"

    state = measure(predictors, metrics, path, 7, OF)

    assert json.loads(path.read_text()) == {"of": OF, "rows": state}
    assert {len(row["milliseconds"]) for row in state.values()} == {7}
    # Each of the two sittings begins with a turn that does not count.
    assert n_images(predictors) == [9, 9]


def test_what_was_measured_is_not_measured_again(predictors, tmp_path):
    path = tmp_path / "deployment.json"
    before = measure(predictors, metrics, path, 5, OF)

    def never(_predictor):
        raise AssertionError

    after = measure(predictors, never, path, 6, OF)

    for name, row in after.items():
        assert row["milliseconds"][:5] == before[name]["milliseconds"]
    some = {"OpenVINO int8": predictors["OpenVINO int8"]}
    assert list(measure(some, never, path, 6, OF)) == ["OpenVINO int8"]


def test_where_nothing_works_here_the_refusals_are_recorded(tmp_path):
    state = measure({}, metrics, tmp_path / "deployment.json", 3, OF)

    (failed,) = runs(
        state, {"OpenVINO int8": "too far"}, {"settings": {"size": "small"}}
    )

    assert failed["failure"] == "too far"
    assert failed["variant"] == "small, OpenVINO int8"


def test_another_detector_s_measurements_are_not_taken(predictors, tmp_path):
    path = tmp_path / "deployment.json"
    measure(predictors, metrics, path, 1, OF)

    with pytest.raises(ResultError, match="is of another detector, category, commit"):
        measure(predictors, metrics, path, 1, OF | {"detector": "3"})


def test_a_row_tells_its_ratio_to_the_baseline():
    row = {"metrics": metrics(None), "milliseconds": [1.0, 2.0, 9.0]}
    slow = row | {"milliseconds": [10.0, 12.0, 11.0]}

    common = {"category": "bottle", "settings": {"size": "small"}}
    refused = {"slow": "it differs by 0.5"}

    first, second, third = runs({BASELINE: slow, "fast": row}, refused, common)

    assert first["metrics"]["speedup"] == 1
    assert second["metrics"] == {
        "image_au_roc": 0.9,
        "au_pro": 0.8,
        "lost_image_au_roc": 0.0,
        "lost_au_pro": 0.0,
        "milliseconds": 2.0,
        "speedup": 5.5,
    }
    assert second["variant"] == "small, fast"
    assert second["latency"]["n"] == 3
    assert second["category"] == "bottle"
    assert third["failure"] == "it differs by 0.5"
    assert third["metrics"] == {}


def test_accuracy_alone_is_told_in_points_lost(predictors, tmp_path):
    def worse(predictor):
        is_first = predictor is predictors[BASELINE]
        return {"image_au_roc": 0.9 if is_first else 0.899}

    state = measure(predictors, worse, tmp_path / "deployment.json", 0, OF)

    common = {"category": "bottle", "settings": {"size": "small"}}
    first, second = runs(state, {}, common)
    assert first["metrics"] == {"image_au_roc": 0.9, "lost_image_au_roc": 0.0}
    assert second["metrics"]["lost_image_au_roc"] == pytest.approx(0.1)
    assert "milliseconds" not in second["metrics"]
    assert n_images(predictors) == [0, 0]


def test_what_the_machine_cannot_have_is_left_out_and_said(capsys):
    def left_out():
        raise ConfigError("precision bf16 needs another processor")

    def refused():
        raise ExportMismatchError("it differs by 0.5")

    found, why = opened({"a": brightness_predictor, "b": left_out, "c": refused})

    assert list(found) == ["a"]
    assert why == {"c": "it differs by 0.5"}
    said = capsys.readouterr().out
    assert "b: left out, precision bf16 needs another" in said
    assert "c: refused, it differs by 0.5" in said


def test_every_engine_has_a_row_and_exports_have_every_precision(predictor, tmp_path):
    efficientad.save(predictor, tmp_path / "part.ead")
    options = Namespace(model=tmp_path / "part.ead", work=tmp_path, anomalib=None)

    names = list(deployment.openers(options))

    assert names[0] == BASELINE
    assert "pytorch" in names
    exports = [name for name in names if name.startswith(("ONNX", "OpenVINO"))]
    assert len(exports) == 8
    assert {"ONNX Runtime int8", "OpenVINO bf16"} <= set(exports)
