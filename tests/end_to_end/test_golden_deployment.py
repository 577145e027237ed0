"""Every engine and language says what the golden vectors say."""

import json
import re
import runpy
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import efficientad
from efficientad.deployment.runtimes import load_predictor
from efficientad.heatmaps import color_scale, heatmap
from efficientad.images import read_image
from efficientad.measurement.baseline import BaselinePredictor
from efficientad.training import model_file

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "cpp"
GOLDEN = runpy.run_path(str(REPOSITORY / "tests" / "golden" / "make_deployment.py"))
FOLDER, STEP = GOLDEN["FOLDER"], GOLDEN["STEP"]
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
# Of the largest value of a map, or of 0.1: as exports are compared. The vectors are
# rounded to a millionth.
TOLERANCE = 1e-3


def assert_golden(name, score, p_value, is_anomalous, anomaly_map):
    expected = EXPECTED[name]
    kept = np.array(expected["map"])
    scale = TOLERANCE * max(np.abs(kept).max(), 0.1)
    np.testing.assert_allclose(anomaly_map[::STEP, ::STEP], kept, atol=scale, rtol=0)
    assert score == pytest.approx(expected["image_score"], abs=scale)
    assert p_value == expected["p_value"]
    assert is_anomalous == expected["is_anomalous"]


@pytest.fixture(scope="module")
def detector():
    return GOLDEN["golden_detector"]()


@pytest.fixture(scope="module")
def exported(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "part.onnx"
    efficientad.export(detector, path)
    return path


def opened(engine, detector, folder):
    if engine == "plain":
        return BaselinePredictor(detector)
    model_file.save(detector, folder / "part.ead")
    return load_predictor(folder / "part.ead", runtime=engine)


def assert_predicts_golden(predictor):
    for name in EXPECTED:
        found = predictor.predict(FOLDER / name)
        assert_golden(
            name,
            found.image_score,
            found.p_value,
            found.is_anomalous,
            found.anomaly_map,
        )


@pytest.mark.parametrize("engine", ["plain", "pytorch", "native"])
def test_python_meets_the_golden_vectors(engine, detector, tmp_path):
    assert_predicts_golden(opened(engine, detector, tmp_path))


def test_an_export_meets_the_golden_vectors(exported):
    assert_predicts_golden(load_predictor(exported))


def test_the_images_are_of_different_kinds_and_decided_differently():
    modes = set()
    for name in EXPECTED:
        with Image.open(FOLDER / name) as picture:
            modes.add(picture.mode)
    decided = {expected["is_anomalous"] for expected in EXPECTED.values()}

    assert modes == {"RGB", "RGBA", "I;16"}
    assert decided == {True, False}


def test_another_map_is_noticed(detector):
    name = "rgb.png"
    found = BaselinePredictor(detector).predict(FOLDER / name)
    said = (found.image_score, found.p_value, found.is_anomalous)
    assert_golden(name, *said, found.anomaly_map)

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_golden(name, *said, found.anomaly_map * 1.01)


# C++


def openvino_dir():
    """Where CMake finds OpenVINO: its Python package carries library and headers."""
    found = find_spec("openvino")
    return Path(str(found.origin)).parent / "cmake" if found is not None else None


def missing_for_cpp():
    """What the example's build lacks here, or None."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            return tool
    folder = openvino_dir()
    if folder is None or not (folder / "OpenVINOConfig.cmake").is_file():
        return "the openvino package"
    return None


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    missing = missing_for_cpp()
    if missing is not None:
        pytest.skip(f"the C++ example needs {missing}")
    build = tmp_path_factory.mktemp("cpp")
    configured = subprocess.run(
        [
            *("cmake", "-S", EXAMPLE, "-B", build, f"-DOpenVINO_DIR={openvino_dir()}"),
            *("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-Werror"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    lacking = re.search(
        r"Could NOT find (\w+)|provided by \"(\w+)\"", configured.stderr
    )
    if configured.returncode != 0 and lacking is not None:
        pytest.skip(f"the C++ example needs {lacking[1] or lacking[2]}")
    assert configured.returncode == 0, configured.stderr
    built = subprocess.run(
        ["cmake", "--build", build], check=False, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return build / "judge"


def run(judge, *arguments):
    return subprocess.run(
        [judge, *arguments],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_cpp_meets_the_golden_vectors(judge, exported, tmp_path, name):
    picture, raw = tmp_path / "heatmap.png", tmp_path / "map.f32"

    finished = run(judge, exported, FOLDER / name, picture, raw)

    assert finished.returncode == EXPECTED[name]["is_anomalous"], finished.stderr
    score, p_value, threshold, decision = finished.stdout.splitlines()
    image = read_image(FOLDER / name)
    anomaly_map = np.fromfile(raw, np.float32).reshape(image.shape[:2])
    assert_golden(
        name,
        float(score.removeprefix("score ")),
        float(p_value.removeprefix("p_value ")),
        decision == "anomalous",
        anomaly_map,
    )
    assert decision in {"anomalous", "normal"}
    low, high = color_scale(float(threshold.removeprefix("threshold ")))
    expected = heatmap(anomaly_map, low=low, high=high).astype(int)
    difference = np.abs(read_image(picture).astype(int) - expected)
    # The next color of the scale, where a value lies between two.
    assert difference.max() <= 4
    assert (difference.max(axis=-1) > 0).mean() < 0.01


@pytest.mark.slow
def test_cpp_says_what_is_wrong(judge, exported, tmp_path):
    heatmap_path, image = tmp_path / "heatmap.png", FOLDER / "rgb.png"
    (tmp_path / "text.png").write_text("no image")
    cases = {
        "no PNG file": (exported, tmp_path / "text.png", heatmap_path),
        "cannot open": (exported, tmp_path / "nothing.png", heatmap_path),
        "no model OpenVINO can read": (image, image, heatmap_path),
        "usage: judge MODEL": (exported,),
        "cannot write": (exported, image, tmp_path / "nowhere" / "heatmap.png"),
    }
    for message, arguments in cases.items():
        finished = run(judge, *arguments)
        assert finished.returncode == 2
        # Where a file is no model at all, OpenVINO's reader speaks before.
        *others, last = finished.stderr.splitlines()
        assert message in last
        assert not others or "OpenVINO" in message
    assert not heatmap_path.exists()
