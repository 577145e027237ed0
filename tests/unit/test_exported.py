"""Exported detectors: on every engine and any size the same answers as PyTorch's."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper
from PIL import Image

import efficientad
import efficientad_lab
from efficientad.cli.main import main
from efficientad.demo_parts import write_category
from efficientad.engines.engine import EngineOutput, Precision
from efficientad.engines.graph_outputs import INPUT, MAP_OUTPUTS, MAX_SIDE, SCORE_OUTPUT
from efficientad.engines.onnxruntime import OnnxRuntimeEngine
from efficientad.engines.openvino import OpenVinoEngine
from efficientad.errors import (
    ConfigError,
    MissingDependencyError,
    ModelFileError,
)
from efficientad.exports.graph import IR_VERSION, OPSET, PIXELS
from efficientad.exports.graph_nodes import Nodes, resized
from efficientad.images.rgb import INPUT_SIZE, resize_image
from efficientad.inspection import opening
from efficientad.model_files import export_metadata as metadata

# Of the largest value of a map, or of 0.1 if that is more.
TOLERANCE = 1e-4
ENGINES = ["onnxruntime", "openvino"]
SIZES = [(33, 33), (256, 256), (40, 2000), (1200, 70), (301, 517), (8, 5000)]
LARGE = (3000, 4000)


def assert_alike(found, expected):
    assert list(found.grids) == list(expected.grids)
    for name, value in expected.grids.items():
        scale = TOLERANCE * max(float(np.abs(value).max()), 0.1)
        np.testing.assert_allclose(found.grids[name], value, atol=scale, rtol=0)
    scale = TOLERANCE * max(abs(expected.image_score), 0.1)
    assert found.image_score == pytest.approx(expected.image_score, abs=scale)
    assert (found.height, found.width) == (expected.height, expected.width)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_an_export_predicts_any_size_as_pytorch_does(
    predictor, exported, photograph, height, width
):
    image = photograph(height, width)
    expected = predictor.predict(image)

    for opened in exported.values():
        found = opened.predict(image)
        assert_alike(found, expected)
        assert found.anomaly_map.shape == (height, width)
        assert found.p_value == expected.p_value
        assert found.threshold == expected.threshold


@pytest.fixture(scope="module")
def resizing():
    """The part of a graph that resizes, by each engine."""
    graph = Nodes()
    resized(graph, INPUT, name=PIXELS)
    shape: list[str | int] = ["batch", "height", "width", 3]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "resizing",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, None)],
            graph.initializers(),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    ).SerializeToString()
    session = onnxruntime.InferenceSession(model)
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return {
        "onnxruntime": lambda images: session.run([PIXELS], {INPUT: images})[0],
        "openvino": lambda images: compiled({INPUT: images})[0],
    }


@pytest.mark.parametrize(("height", "width"), [*SIZES, LARGE, (8, MAX_SIDE)])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_graph_resizes_to_the_same_pixels(
    resizing, photograph, engine, height, width
):
    image = photograph(height, width)

    (found,) = resizing[engine](image[np.newaxis])

    expected = resize_image(image, INPUT_SIZE, INPUT_SIZE)
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


def test_another_map_is_noticed(predictor, exported, photograph):
    """The positive control: a slightly other image is told apart."""
    image = photograph(256, 256)
    expected = predictor.predict(image)
    image[100:110, 100:110] ^= 1

    with pytest.raises(AssertionError):
        assert_alike(exported["onnxruntime"].predict(image), expected)


@pytest.fixture(scope="module")
def predicted_48_megapixels(predictor, photograph):
    """A large image, and its prediction by PyTorch."""
    image = np.tile(photograph(600, 800), (10, 10, 1))
    return image, predictor.predict(image)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_image_of_48_megapixels_is_predicted_as_by_pytorch(
    predicted_48_megapixels, exported, engine
):
    image, expected = predicted_48_megapixels

    found = exported[engine].predict(image)

    assert_alike(found, expected)
    assert found.anomaly_map.shape == (6000, 8000)


@pytest.mark.parametrize("engine", ENGINES)
def test_images_predicted_together_are_predicted_as_alone(exported, photograph, engine):
    sizes = [(60, 50), (60, 50), (50, 60), (60, 50)]
    images = [photograph(*size, seed) for seed, size in enumerate(sizes)]

    together = exported[engine].predict_batch(images)

    assert len(together) == len(images)
    for image, found in zip(images, together, strict=True):
        assert_alike(found, exported[engine].predict(image))
    assert exported[engine].predict_batch([]) == []


def test_the_graph_itself_gives_maps_at_the_images_size(exports, exported, photograph):
    images = np.stack([photograph(120, 90, seed) for seed in range(2)])
    session = onnxruntime.InferenceSession(exports["onnxruntime"])

    combined, local, global_, scores = session.run(
        [*MAP_OUTPUTS, SCORE_OUTPUT], {INPUT: images}
    )

    for index, image in enumerate(images):
        expected = exported["onnxruntime"].predict(image)
        scale = 1e-5 * max(float(np.abs(expected.anomaly_map).max()), 0.1)
        np.testing.assert_allclose(combined[index], expected.anomaly_map, atol=scale)
        np.testing.assert_allclose(local[index], expected.map("local"), atol=2 * scale)
        np.testing.assert_allclose(
            global_[index], expected.map("global"), atol=2 * scale
        )
        assert scores[index] == pytest.approx(expected.image_score, abs=scale)


def test_a_gray_image_and_a_path_are_predicted_too(exported, photograph, tmp_path):
    gray = photograph(64, 64)[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")

    given = [tmp_path / "gray.png", gray]
    from_file, from_array = exported["openvino"].predict_batch(given)

    assert from_file.image_score == from_array.image_score


def test_more_pixels_than_the_graph_counts_are_predicted_too(
    predictor, exported, photograph
):
    image = np.tile(photograph(8, 1000), (1, MAX_SIDE // 1000 + 1, 1))

    assert_alike(exported["openvino"].predict(image), predictor.predict(image))


class Broken:
    """An engine one of whose maps has a value that is no number."""

    is_concurrent = True
    precision: Precision = "fp32"
    device: Literal["cpu"] = "cpu"

    def __init__(self, name, value):
        self.grids = {k: np.ones((1, 56, 56), np.float32) for k in ("local", "global")}
        if name is not None:
            self.grids[name].flat[0] = value

    def run(self, pixels):
        assert len(pixels) == 1
        return EngineOutput(self.grids)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["local", "global"])
def test_an_image_without_a_number_is_not_called_normal(
    exported, photograph, name, value
):
    broken, whole = (
        replace(exported["onnxruntime"], engine=Broken(given, value))
        for given in (name, None)
    )

    with pytest.raises(ModelFileError, match=r"finite maps .* use a higher precision"):
        broken.predict(photograph(20, 30))
    assert np.isfinite(whole.predict(photograph(20, 30)).image_score)


@pytest.mark.parametrize("n_streams", [0, -3])
@pytest.mark.parametrize("name", ["part.onnx", "part.xml", "part.ead"])
def test_no_streams_are_refused_before_anything_is_opened(tmp_path, name, n_streams):
    with pytest.raises(ConfigError, match=f"1 to 1024, got {n_streams}"):
        efficientad.load(tmp_path / name, n_streams=n_streams)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_threads_are_no_fault_of_the_file(exports, engine):
    with pytest.raises(ConfigError, match="1 to 1024, got -2"):
        efficientad.load(exports[engine], n_threads=-2)


def test_no_streams_are_refused_before_anything_is_written(
    exported, photograph, tmp_path
):
    Image.fromarray(photograph(20, 30)).save(tmp_path / "a.png")

    with pytest.raises(ConfigError, match="n_streams must be a whole number from 1"):
        efficientad.predict(
            exported["openvino"],
            [tmp_path / "a.png"],
            tmp_path / "found",
            n_streams=0,
        )

    assert not (tmp_path / "found").exists()


def test_threads_that_are_asked_for_are_not_tied_to_a_core(exports):
    engine = OpenVinoEngine(exports["openvino"], n_threads=1)

    assert not engine._compiled.get_property("ENABLE_CPU_PINNING")
    assert engine._compiled.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize(("n_streams", "n_of_all"), [(1, 1), (2, 2)])
def test_threads_are_those_of_one_prediction(exports, n_streams, n_of_all):
    opened = efficientad.load(exports["openvino"], n_threads=1, n_streams=n_streams)

    assert isinstance(opened.engine, OpenVinoEngine)
    compiled = opened.engine._compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == n_of_all


def test_openvino_runs_an_onnx_file_too(exports, exported, photograph):
    image = photograph(64, 70)

    opened = efficientad.load(exports["onnxruntime"], engine="openvino")

    assert isinstance(opened.engine, OpenVinoEngine)
    expected = exported["onnxruntime"].predict(image)
    assert_alike(opened.predict(image), expected)


@pytest.mark.parametrize(
    ("engine", "settings", "message"),
    [
        ("onnxruntime", {"engine": "native"}, r"native runs \.ead files"),
        ("openvino", {"engine": "pytorch"}, r"pytorch runs \.ead files"),
        ("openvino", {"engine": "onnxruntime"}, r"export an \.onnx file"),
        ("openvino", {"device": "cuda"}, r"runs on the CPU.*export an \.onnx file"),
        ("onnxruntime", {"device": "cuda"}, "pip install onnxruntime-gpu"),
        ("onnxruntime", {"engine": "openvino", "device": "cuda"}, "runs on the CPU"),
    ],
)
def test_file_engine_and_device_must_fit(exports, engine, settings, message):
    with pytest.raises(ConfigError, match=message):
        efficientad.load(exports[engine], **settings)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("PART.ONNX", "rename it to PART.onnx"),
        ("part.bin", "weights of part.xml; give that file"),
        ("part.tflite", "give one of these"),
    ],
)
def test_a_wrong_name_is_told_its_own_remedy(tmp_path, name, words):
    (tmp_path / "part.xml").touch()
    (tmp_path / name).touch()

    with pytest.raises(ModelFileError, match=words):
        efficientad.load(str(tmp_path / name))


def test_an_export_is_not_exported_again(exports, capsys):
    given = ["export", str(exports["onnxruntime"]), "--output", "other.onnx"]

    assert main(given) == 2

    assert "is an export already; give the .ead file" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["", "out"])
def test_a_second_run_does_not_predict_the_pictures_of_the_first(
    exported, photograph, tmp_path, place
):
    Image.fromarray(photograph(40, 50)).save(tmp_path / "a.png")
    output = tmp_path / place

    summaries = [
        efficientad.predict(exported["openvino"], [tmp_path], output, has_maps=True)
        for _ in range(2)
    ]

    assert [(found.n_images, found.n_failed) for found in summaries] == [(1, 0)] * 2
    assert (output / "heatmaps" / "a.png").is_file()
    assert (output / "maps" / "a.tiff").is_file()


def test_a_detector_file_is_not_run_by_another_engine(tmp_path):
    (tmp_path / "part.ead").touch()

    with pytest.raises(ConfigError, match="engine openvino runs exported files"):
        efficientad.load(tmp_path / "part.ead", engine="openvino")


@pytest.mark.parametrize(
    ("engine", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")]
)
def test_a_missing_engine_is_named(exports, monkeypatch, engine, extra):
    monkeypatch.setitem(sys.modules, engine, None)

    with pytest.raises(MissingDependencyError, match=rf"{engine}.*\[{extra}\]"):
        efficientad.load(exports[engine])


def test_the_command_line_exports_and_predicts(predictor, photograph, tmp_path, capsys):
    efficientad.save(predictor, tmp_path / "part.ead")
    images = [tmp_path / f"{name}.png" for name in "abc"]
    for seed, path in enumerate(images):
        Image.fromarray(photograph(80, 60, seed)).save(path)
    model, target = str(tmp_path / "part.ead"), str(tmp_path / "part.xml")

    assert main(["export", model, "--output", target, "--precision", "fp8"]) == 2
    assert capsys.readouterr().err == (
        "efficientad: --precision needs one of bf16, fp16, fp32, int8, got 'fp8'; "
        "see efficientad export --help\n"
    )
    assert main(["export", model, "--output", target]) == 0
    assert "largest difference from PyTorch" in capsys.readouterr().out
    named = [str(path) for path in images]
    options = ["--output", str(tmp_path / "found"), "--streams", "2"]
    assert main(["predict", target, *named, *options]) == 0
    rows = (tmp_path / "found" / "predictions.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == named
    assert main(["predict", model, *named, *options, "--engine", "pytorch"]) == 2
    assert "use 1 stream, or another engine" in capsys.readouterr().err


PROGRAM = """
import sys
for name in {blocked}:
    sys.modules[name] = None
from efficientad import load
from pathlib import Path
import numpy as np
image = np.zeros((40, 50, 3), np.uint8)
print(load(Path({path!r})).predict(image).image_score)
"""


# The lab's verbs are found in its own sources.
LAB = Path(str(efficientad_lab.__file__)).parents[1]
SOURCES = f"{Path(efficientad.__file__).parents[1]}{os.pathsep}{LAB}"


def run_without(blocked, path):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(blocked=blocked, path=str(path))],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCES},
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_an_export_predicts_without_torch(exports, exported, engine):
    blocked = ["torch", "jaxtyping", "scipy", "onnx"]

    finished = run_without(blocked, exports[engine])

    assert finished.returncode == 0, finished.stderr
    expected = exported[engine].predict(np.zeros((40, 50, 3), np.uint8))
    assert float(finished.stdout) == pytest.approx(expected.image_score)


VERB_WITHOUT = """
import sys
from importlib.machinery import PathFinder
from efficientad.cli.main import main

search = PathFinder.find_spec

def find_spec(name, *place):
    return None if name in sys.argv[1].split() else search(name, *place)

PathFinder.find_spec = find_spec
sys.exit(main(sys.argv[2:]))
"""


def run_verb_without(packages, *arguments):
    finished = subprocess.run(
        [sys.executable, "-c", VERB_WITHOUT, packages, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCES},
    )
    assert "Traceback" not in finished.stderr
    return finished


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("evaluate", "image_au_roc"),
        ("threshold", "threshold 0.25"),
        ("check", "test images"),
        ("doctor", "it needs PyTorch, which is not installed"),
    ],
)
def test_verbs_of_a_line_side_computer_need_no_torch(exports, tmp_path, verb, words):
    parts = tmp_path / "parts"
    write_category(parts, n_train=2, n_test_good=1, n_per_defect=1, seed=0, size=64)
    model = shutil.copy(exports["onnxruntime"], tmp_path)
    arguments = {
        "evaluate": [model, parts, "--output", tmp_path / "found"],
        "threshold": [model, "--at", "0.25"],
        "check": [parts],
        "doctor": [],
    }

    missing = "torch jaxtyping" + " scipy" * (verb == "threshold")
    finished = run_verb_without(missing, verb, *arguments[verb])

    assert words in finished.stdout
    assert finished.returncode == (verb == "check"), finished.stderr


@pytest.mark.parametrize("verb", ["evaluate", "calibrate"])
def test_a_package_is_missed_before_any_image_is_read(exports, tmp_path, verb):
    model = exports["onnxruntime"]
    arguments = verb, model, tmp_path / "nowhere", "--output", tmp_path / "found"

    finished = run_verb_without("scipy", *arguments)

    assert finished.returncode == 2
    assert f"{verb} needs scipy, which is not installed" in finished.stderr


def test_a_name_that_no_engine_can_open_is_one_sentence(exports, tmp_path):
    path = Path(shutil.copy(exports["onnxruntime"], tmp_path / "\udce9.onnx"))

    with pytest.raises(ModelFileError, match=r"no UTF-8.*rename or move it"):
        efficientad.load(path)


def test_streams_share_the_cores_this_process_may_use(exports, monkeypatch):
    asked = []
    monkeypatch.setattr(opening, "usable_cores", lambda: 6)

    def opened(path, *, n_threads, **settings):
        asked.append(n_threads)
        return OnnxRuntimeEngine(path, n_threads=n_threads, **settings)

    monkeypatch.setattr(opening, "OnnxRuntimeEngine", opened)

    efficientad.load(exports["onnxruntime"], n_streams=3)

    assert asked == [2]


def test_blocking_a_package_is_noticed(exports):
    assert "onnxruntime" in run_without(["onnxruntime"], exports["onnxruntime"]).stderr


def test_size_and_precision_are_those_of_the_file(exported, exports):
    for name, opened in exported.items():
        assert (opened.size, opened.precision) == ("small", "fp32")
        assert opened.calibration == metadata.read(exports[name]).calibration


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_another_one_is_copied_over_goes_on_predicting(
    exports, photograph, tmp_path, engine
):
    """A mapped file that is cut would end the process."""
    for source in metadata.files_of(exports[engine]):
        shutil.copy(source, tmp_path)
    path = tmp_path / exports[engine].name
    opened = efficientad.load(path)
    image = photograph(50, 60)
    score = opened.predict(image).image_score

    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path) not in maps.read_text()
    for copied in metadata.files_of(path):
        os.truncate(copied, 100)
    assert opened.predict(image).image_score == score
