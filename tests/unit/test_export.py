"""Exported detectors: the same answers without PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import efficientad
from efficientad.cli import main
from efficientad.deployment import export as export_module
from efficientad.deployment import graph
from efficientad.deployment.exported import ExportedPredictor
from efficientad.deployment.graph import INPUT, MAP_OUTPUTS, SCORE_OUTPUT
from efficientad.deployment.runtimes import load_predictor
from efficientad.errors import (
    ConfigError,
    MissingDependencyError,
    ModelFileError,
    NotCalibratedError,
)
from efficientad.method.predictor import Predictor
from efficientad.training import model_file

# Of the largest value; 1 of 255 in some pixels of a tall image makes a thousandth.
TOLERANCE = 5e-3
SIZES = [(256, 256), (33, 33), (40, 2000), (1200, 70), (301, 517)]


@pytest.fixture(scope="module")
def detector(make_detector):
    return make_detector()


@pytest.fixture(scope="module")
def exported(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "part.onnx"
    efficientad.export(detector, path)
    return path


def photograph(height, width, seed=0):
    """Smooth and noisy parts, as in a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), np.int16)
    noise = rng.integers(-20, 21, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_an_export_judges_any_size_as_pytorch_does(detector, exported, height, width):
    image = photograph(height, width)
    detector.prefers_native = False

    expected, actual = (
        detector.predict(image),
        ExportedPredictor(exported).predict(image),
    )

    scale = max(float(np.abs(expected.anomaly_map).max()), 0.1)
    np.testing.assert_allclose(
        actual.anomaly_map, expected.anomaly_map, atol=TOLERANCE * scale
    )
    assert actual.image_score == pytest.approx(
        expected.image_score, abs=TOLERANCE * scale
    )
    assert actual.p_value == expected.p_value
    assert actual.threshold == expected.threshold
    assert actual.anomaly_map.shape == (height, width)


def test_the_graph_itself_gives_maps_at_the_images_size(exported):
    images = np.stack([photograph(120, 90, seed) for seed in range(2)])
    session = onnxruntime.InferenceSession(exported)

    combined, local, global_, scores = session.run(
        [*MAP_OUTPUTS, SCORE_OUTPUT], {INPUT: images}
    )

    predictor = ExportedPredictor(exported)
    for index, image in enumerate(images):
        expected = predictor.predict(image)
        scale = 1e-4 * max(float(np.abs(expected.anomaly_map).max()), 0.1)
        np.testing.assert_allclose(combined[index], expected.anomaly_map, atol=scale)
        np.testing.assert_allclose(local[index], expected.local_map, atol=scale)
        np.testing.assert_allclose(global_[index], expected.global_map, atol=2 * scale)
        assert scores[index] == pytest.approx(expected.image_score, abs=scale)


def test_a_gray_image_and_a_path_are_judged_too(exported, tmp_path):
    gray = photograph(64, 64)[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")

    predictor = load_predictor(exported)
    from_file, from_array = predictor.predict_batch([tmp_path / "gray.png", gray])

    assert isinstance(predictor, Predictor)
    assert from_file.image_score == from_array.image_score


def test_an_export_that_differs_is_refused_and_nothing_is_left(
    detector, tmp_path, monkeypatch
):
    build = graph.detector_graph

    def wrong(given):
        model = build(given)
        for tensor in model.graph.initializer:
            if list(tensor.dims) == [384, 256, 4, 4]:
                value = onnx.numpy_helper.to_array(tensor) * 1.01
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        return model

    monkeypatch.setattr(export_module, "detector_graph", wrong)
    target = tmp_path / "part.onnx"
    target.write_bytes(b"an earlier export")

    with pytest.raises(ConfigError, match=r"within 0\.001, its local_grid differs"):
        efficientad.export(detector, target)

    assert target.read_bytes() == b"an earlier export"
    assert [path.name for path in tmp_path.iterdir()] == ["part.onnx"]


def test_an_uncalibrated_detector_is_not_exported(make_detector, tmp_path):
    detector = make_detector()
    detector.calibration = None

    with pytest.raises(NotCalibratedError, match="call calibrate first"):
        efficientad.export(detector, tmp_path / "part.onnx")


def with_metadata(path, target, metadata):
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"efficientad": metadata})
    onnx.save(model, target)
    return target


def test_the_threshold_is_metadata(exported, tmp_path):
    content = json.loads(onnx.load(exported).metadata_props[0].value)
    content["calibration"]["given_threshold"] = 123.0
    path = with_metadata(exported, tmp_path / "b.onnx", json.dumps(content))

    assert ExportedPredictor(path).predict(photograph(50, 50)).threshold == 123.0


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("no JSON", "not an export of this package"),
        ('{"format": 99}', "export format 99, this version reads 1"),
        ('{"format": 1, "calibration": {}}', "not hold a complete calibration"),
    ],
)
def test_a_foreign_export_gets_a_sentence(exported, tmp_path, metadata, message):
    path = with_metadata(exported, tmp_path / "b.onnx", metadata)

    with pytest.raises(ModelFileError, match=message):
        ExportedPredictor(path)


def test_a_truncated_export_gets_a_sentence(exported, tmp_path):
    path = tmp_path / "b.onnx"
    path.write_bytes(exported.read_bytes()[:5000])

    with pytest.raises(ModelFileError, match="not an ONNX file that can be read"):
        load_predictor(path)


def test_an_export_runs_on_its_own_engine_only(exported):
    with pytest.raises(ConfigError, match="leave both at auto"):
        load_predictor(exported, runtime="native")


def test_a_missing_engine_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(MissingDependencyError, match=r"efficientad\[onnx\]"):
        load_predictor(exported)


def test_the_command_line_exports_and_predicts(detector, tmp_path, capsys):
    model_file.save(detector, tmp_path / "part.ead")
    Image.fromarray(photograph(80, 60)).save(tmp_path / "a.png")
    model, target = str(tmp_path / "part.ead"), str(tmp_path / "part.onnx")

    assert main(["export", model, "--output", str(tmp_path / "part.xyz")]) == 2
    assert "name it part.onnx" in capsys.readouterr().err
    assert main(["export", model, "--output", target]) == 0
    assert "largest difference from PyTorch" in capsys.readouterr().out
    judged = ["predict", target, str(tmp_path / "a.png"), "--output", str(tmp_path)]
    assert main(judged) == 0
    assert (tmp_path / "heatmaps" / "a.png").is_file()


PROGRAM = """
import sys
for name in {blocked}:
    sys.modules[name] = None
from efficientad import load_predictor
from pathlib import Path
import numpy as np
image = np.zeros((40, 50, 3), np.uint8)
print(load_predictor(Path({path!r})).predict(image).image_score)
"""


def run_without(blocked, path):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(blocked=blocked, path=str(path))],
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(efficientad.__file__).parents[1]),
        },
    )


def test_an_export_is_judged_without_torch(exported):
    finished = run_without(["torch", "jaxtyping", "scipy", "onnx"], exported)

    assert finished.returncode == 0, finished.stderr
    assert float(finished.stdout) == pytest.approx(
        ExportedPredictor(exported).predict(np.zeros((40, 50, 3), np.uint8)).image_score
    )


def test_blocking_a_package_is_noticed(exported):
    assert "onnxruntime" in run_without(["onnxruntime"], exported).stderr
