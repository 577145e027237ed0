"""Exported detectors: on every engine and any size the same answers as PyTorch's."""

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
from efficientad.engines.exported import (
    INPUT,
    MAP_OUTPUTS,
    SCORE_OUTPUT,
    Judged,
    OnnxRuntimeEngine,
    OpenVinoEngine,
)
from efficientad.engines.tensorrt import TensorRtEngine, _Session
from efficientad.inspection.exported_predictor import ExportedPredictor
from PIL import Image

import efficientad
from efficientad.cli.main import main
from efficientad.demo_parts import write_category
from efficientad.errors import (
    ConfigError,
    ImageError,
    MissingDependencyError,
    ModelFileError,
)
from efficientad.exports.graph_nodes import MAX_SIDE, without_resizing
from efficientad.inspection import exported_predictor as exported_module
from efficientad.inspection.files import predict_files
from efficientad.inspection.opening import load_predictor
from efficientad.inspection.predictor import Predictor
from efficientad.model_files import detector_file as model_file
from efficientad.model_files import export_metadata as metadata

# Of the largest value of a map, or of 0.1 if that is more.
TOLERANCE = 1e-4
ENGINES = ["onnxruntime", "openvino"]
SIZES = [(33, 33), (256, 256), (40, 2000), (1200, 70), (301, 517), (8, 5000)]
LARGE = (3000, 4000)


def assert_alike(found, expected):
    for name in ("local_grid", "global_grid"):
        value = getattr(expected, name)
        scale = TOLERANCE * max(float(np.abs(value).max()), 0.1)
        np.testing.assert_allclose(getattr(found, name), value, atol=scale, rtol=0)
    scale = TOLERANCE * max(abs(expected.image_score), 0.1)
    assert found.image_score == pytest.approx(expected.image_score, abs=scale)
    assert (found.height, found.width) == (expected.height, expected.width)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_an_export_judges_any_size_as_pytorch_does(
    judging_detector, predictors, photograph, height, width
):
    image = photograph(height, width)
    expected = judging_detector.predict(image)

    for predictor in predictors.values():
        found = predictor.predict(image)
        assert_alike(found, expected)
        assert found.anomaly_map.shape == (height, width)
        assert found.p_value == expected.p_value
        assert found.threshold == expected.threshold


@pytest.mark.parametrize(("height", "width"), [*SIZES, LARGE])
def test_the_graph_resizes_to_the_same_pixels(predictors, photograph, height, width):
    image = photograph(height, width)

    for predictor in predictors.values():
        expected, found = predictor.predict(image), predictor.judge(image[np.newaxis])
        assert found.scores[0] == expected.image_score
        assert np.array_equal(found.local_grids[0], expected.local_grid)
        assert np.array_equal(found.global_grids[0], expected.global_grid)


def test_a_graph_without_resizing_says_the_same(exports, predictors, photograph):
    model = onnx.load(exports["onnxruntime"])
    image = photograph(256, 256)

    plain = without_resizing(model)

    onnx.checker.check_model(plain)
    session = onnxruntime.InferenceSession(plain.SerializeToString())
    (score,) = session.run([SCORE_OUTPUT], {INPUT: image[np.newaxis]})
    assert score[0] == predictors["onnxruntime"].predict(image).image_score
    assert "If" in {node.op_type for node in model.graph.node}
    assert "If" not in {node.op_type for node in plain.graph.node}


def test_another_map_is_noticed(judging_detector, predictors, photograph):
    """The positive control: a slightly other image is told apart."""
    image = photograph(256, 256)
    expected = judging_detector.predict(image)
    image[100:110, 100:110] ^= 1

    with pytest.raises(AssertionError):
        assert_alike(predictors["onnxruntime"].predict(image), expected)


@pytest.fixture(scope="module")
def judged_48_megapixels(judging_detector, photograph):
    """A large image, and what PyTorch says about it."""
    image = np.tile(photograph(600, 800), (10, 10, 1))
    return image, judging_detector.predict(image)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_image_of_48_megapixels_is_judged_as_pytorch_does(
    judged_48_megapixels, predictors, engine
):
    image, expected = judged_48_megapixels

    found = predictors[engine].predict(image)

    assert_alike(found, expected)
    assert found.anomaly_map.shape == (6000, 8000)


@pytest.mark.parametrize("engine", ENGINES)
def test_images_judged_together_are_judged_as_alone(predictors, photograph, engine):
    sizes = [(60, 50), (60, 50), (50, 60), (60, 50)]
    images = [photograph(*size, seed) for seed, size in enumerate(sizes)]

    together = predictors[engine].predict_batch(images)

    assert len(together) == len(images)
    for image, found in zip(images, together, strict=True):
        assert_alike(found, predictors[engine].predict(image))
    assert predictors[engine].predict_batch([]) == []


def test_the_graph_itself_gives_maps_at_the_images_size(
    exports, predictors, photograph
):
    images = np.stack([photograph(120, 90, seed) for seed in range(2)])
    session = onnxruntime.InferenceSession(exports["onnxruntime"])

    combined, local, global_, scores = session.run(
        [*MAP_OUTPUTS, SCORE_OUTPUT], {INPUT: images}
    )

    for index, image in enumerate(images):
        expected = predictors["onnxruntime"].predict(image)
        scale = 1e-5 * max(float(np.abs(expected.anomaly_map).max()), 0.1)
        np.testing.assert_allclose(combined[index], expected.anomaly_map, atol=scale)
        np.testing.assert_allclose(local[index], expected.local_map, atol=2 * scale)
        np.testing.assert_allclose(global_[index], expected.global_map, atol=2 * scale)
        assert scores[index] == pytest.approx(expected.image_score, abs=scale)


def test_a_gray_image_and_a_path_are_judged_too(exports, photograph, tmp_path):
    gray = photograph(64, 64)[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")

    predictor = load_predictor(exports["openvino"])
    from_file, from_array = predictor.predict_batch([tmp_path / "gray.png", gray])

    assert isinstance(predictor, Predictor)
    assert from_file.image_score == from_array.image_score


def test_more_pixels_than_the_graph_counts_are_judged_too(
    judging_detector, predictors, photograph
):
    image = np.tile(photograph(8, 1000), (1, MAX_SIDE // 1000 + 1, 1))

    assert_alike(predictors["openvino"].predict(image), judging_detector.predict(image))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(8, MAX_SIDE + 1), (MAX_SIDE + 1, 8)])
def test_the_graph_is_not_given_more_pixels_than_it_counts(predictors, engine, shape):
    predictors[engine].judge(np.zeros((1, 8, MAX_SIDE, 3), np.uint8))
    with pytest.raises(ImageError, match=f"up to {MAX_SIDE} pixels a side, got"):
        predictors[engine].judge(np.zeros((1, *shape, 3), np.uint8))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((20, 30, 3), np.uint8),
        ((1, 20, 30, 4), np.uint8),
        ((1, 0, 30, 3), np.uint8),
        ((1, 20, 30, 3), np.float32),
        ((), np.uint8),
    ],
)
def test_what_is_no_batch_of_images_is_refused(predictors, shape, dtype):
    with pytest.raises(ImageError, match=r"uint8 images \(batch, height, width, 3\)"):
        predictors["openvino"].judge(np.zeros(shape, dtype))


class Broken:
    """An engine some of whose numbers are none."""

    def __init__(self, place):
        self.judged = Judged(
            np.zeros(1, np.float32), *np.zeros((2, 1, 56, 56), np.float32)
        )
        self.judged[place].flat[0] = np.nan

    def run(self, _images):
        return self.judged


@pytest.mark.parametrize("place", range(3))
def test_an_image_without_a_number_is_not_called_normal(
    exports, photograph, monkeypatch, place
):
    predictor = ExportedPredictor(exports["onnxruntime"])
    monkeypatch.setattr(predictor, "_engine", Broken(place))

    with pytest.raises(ModelFileError, match=r"part\.onnx .* in a higher precision"):
        predictor.predict(photograph(20, 30))


@pytest.mark.parametrize("n_streams", [0, -3])
@pytest.mark.parametrize("name", ["part.onnx", "part.xml", "part.ead"])
def test_no_streams_are_refused_before_anything_is_opened(tmp_path, name, n_streams):
    with pytest.raises(ConfigError, match=f"at least 1 stream, got {n_streams}"):
        load_predictor(tmp_path / name, n_streams=n_streams)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_threads_are_no_fault_of_the_file(exports, engine):
    with pytest.raises(ConfigError, match="at least 1 thread, got -2"):
        ExportedPredictor(exports[engine], n_threads=-2)


def test_no_streams_are_refused_before_anything_is_written(
    predictors, photograph, tmp_path
):
    Image.fromarray(photograph(20, 30)).save(tmp_path / "a.png")

    with pytest.raises(ConfigError, match="at least 1 stream"):
        predict_files(
            predictors["openvino"],
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
    predictor = ExportedPredictor(exports["openvino"], n_threads=1, n_streams=n_streams)

    assert isinstance(predictor._engine, OpenVinoEngine)
    compiled = predictor._engine._compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == n_of_all


def test_openvino_runs_an_onnx_file_too(exports, predictors, photograph):
    image = photograph(64, 70)

    found = load_predictor(exports["onnxruntime"], runtime="openvino").predict(image)

    assert_alike(found, predictors["onnxruntime"].predict(image))


@pytest.mark.parametrize(
    ("engine", "settings", "message"),
    [
        ("onnxruntime", {"runtime": "native"}, r"native runs \.ead files"),
        ("openvino", {"runtime": "onnxruntime"}, r"export an \.onnx file"),
        ("openvino", {"device": "cuda"}, r"export an \.onnx file"),
        ("onnxruntime", {"runtime": "openvino", "device": "cuda"}, "runs on cpu"),
        ("onnxruntime", {"runtime": "tensorrt", "device": "cpu"}, "runs on cuda"),
    ],
)
def test_file_runtime_and_device_must_fit(exports, engine, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_predictor(exports[engine], **settings)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("PART.ONNX", "rename it to PART.onnx"),
        ("part.bin", "weights of part.xml; give that file"),
        ("part.tflite", "give one of these"),
    ],
)
def test_a_wrong_name_is_told_its_own_remedy(tmp_path, monkeypatch, name, words):
    monkeypatch.setitem(sys.modules, "efficientad.model_files.detector_file", None)
    monkeypatch.delattr("efficientad.model_files.detector_file")
    (tmp_path / "part.xml").touch()
    (tmp_path / name).touch()

    with pytest.raises(ModelFileError, match=words):
        load_predictor(str(tmp_path / name))


def test_an_export_is_not_exported_again(exports, capsys):
    given = ["export", str(exports["onnxruntime"]), "--output", "other.onnx"]

    assert main(given) == 2

    assert "is an export already; give the .ead file" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["", "out"])
def test_a_second_run_does_not_judge_the_pictures_of_the_first(
    exports, photograph, tmp_path, place
):
    Image.fromarray(photograph(40, 50)).save(tmp_path / "a.png")
    predictor = load_predictor(exports["openvino"])
    output = tmp_path / place

    summaries = [
        predict_files(predictor, [tmp_path], output, has_maps=True) for _ in range(2)
    ]

    assert [(found.n_images, found.n_failed) for found in summaries] == [(1, 0)] * 2
    assert (output / "heatmaps" / "a.png").is_file()
    assert (output / "maps" / "a.tiff").is_file()


def test_a_detector_file_is_not_run_by_another_engine(tmp_path):
    (tmp_path / "part.ead").touch()

    with pytest.raises(ConfigError, match="runtime openvino runs exported files"):
        load_predictor(tmp_path / "part.ead", runtime="openvino")


@pytest.mark.parametrize(
    ("engine", "settings", "package", "extra"),
    [
        ("onnxruntime", {}, "onnxruntime", "onnx"),
        ("openvino", {}, "openvino", "openvino"),
        ("onnxruntime", {"device": "cuda"}, "tensorrt", "tensorrt"),
    ],
)
def test_a_missing_engine_is_named(
    exports, monkeypatch, engine, settings, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDependencyError, match=rf"{package}.*\[{extra}\]"):
        load_predictor(exports[engine], **settings)


def test_tensorrt_refuses_scales_made_for_cpus(tmp_path):
    with pytest.raises(ConfigError, match="export fp16 for a GPU"):
        TensorRtEngine(tmp_path / "part.onnx", precision="int8")


def test_tensorrt_says_what_size_it_takes():
    engine = TensorRtEngine.__new__(TensorRtEngine)  # without a GPU
    with pytest.raises(
        ImageError, match=r"\(batch, 256, 256, 3\), got \(1, 20, 30, 3\)"
    ):
        engine.run(np.zeros((1, 20, 30, 3), np.uint8))


class _FullDevice:
    """CUDA's calls, on a device that has no room for the second buffer."""

    class cudaError_t:  # noqa: N801 - CUDA's name
        cudaSuccess = 0  # noqa: N815

    class _Status:
        name = "cudaErrorMemoryAllocation"

    def __init__(self):
        self.given, self.freed = [], []

    def cudaStreamCreate(self):  # noqa: N802
        return 0, 7

    def cudaStreamDestroy(self, stream):  # noqa: N802
        assert stream == 7

    def cudaMalloc(self, n_bytes):  # noqa: N802
        if self.given:
            return self._Status(), 0
        self.given.append(n_bytes)
        return 0, n_bytes

    def cudaFree(self, address):  # noqa: N802
        self.freed.append(address)


def test_tensorrt_gives_back_what_it_got_of_a_device_that_is_full():
    cuda, engine = _FullDevice(), mock.MagicMock()

    with pytest.raises(ConfigError, match=r"cudaErrorMemoryAllocation.*free memory"):
        _Session(cuda, engine)
    gc.collect()
    assert cuda.freed == cuda.given

    engine.create_execution_context.return_value = None
    with pytest.raises(ConfigError, match="could not make its context"):
        _Session(cuda, engine)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 2e-2)])
def test_tensorrt_judges_as_pytorch_does(
    judging_detector, photograph, tmp_path, precision, tolerance
):
    pytest.importorskip("tensorrt")
    path = tmp_path / "part.onnx"
    efficientad.export(judging_detector, path, precision=precision)
    predictor = load_predictor(path, device="cuda")
    images = [photograph(256, 256), photograph(256, 256, 1), photograph(90, 120)]

    for image, found in zip(images, predictor.predict_batch(images), strict=True):
        expected = judging_detector.predict(image)
        for name in ("local_grid", "global_grid"):
            value = getattr(expected, name)
            scale = tolerance * max(float(np.abs(value).max()), 0.1)
            np.testing.assert_allclose(getattr(found, name), value, atol=scale)


def test_the_command_line_exports_and_predicts(
    judging_detector, photograph, tmp_path, capsys
):
    model_file.save(judging_detector, tmp_path / "part.ead")
    images = [tmp_path / f"{name}.png" for name in "abc"]
    for seed, path in enumerate(images):
        Image.fromarray(photograph(80, 60, seed)).save(path)
    model, target = str(tmp_path / "part.ead"), str(tmp_path / "part.xml")

    assert main(["export", model, "--output", target, "--format", "onnx"]) == 2
    assert "name it part.onnx" in capsys.readouterr().err
    assert main(["export", model, "--output", target, "--format", "tflite"]) == 2
    assert capsys.readouterr().err == (
        "efficientad: invalid choice 'tflite' for argument '--format'. Expected one of "
        "None, onnx, openvino; see efficientad export --help\n"
    )
    assert main(["export", model, "--output", target, "--format", "openvino"]) == 0
    assert "largest difference from PyTorch" in capsys.readouterr().out
    named = [str(path) for path in images]
    options = ["--output", str(tmp_path / "found"), "--streams", "2"]
    assert main(["predict", target, *named, *options]) == 0
    rows = (tmp_path / "found" / "predictions.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == named
    assert main(["predict", model, *named, *options]) == 2
    assert "use 1 stream, or an exported file" in capsys.readouterr().err


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


@pytest.mark.parametrize("engine", ENGINES)
def test_an_export_is_judged_without_torch(exports, predictors, engine):
    blocked = ["torch", "jaxtyping", "scipy", "onnx"]

    finished = run_without(blocked, exports[engine])

    assert finished.returncode == 0, finished.stderr
    expected = predictors[engine].predict(np.zeros((40, 50, 3), np.uint8))
    assert float(finished.stdout) == pytest.approx(expected.image_score)


VERB_WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder
from efficientad.cli.main import main

search = PathFinder.find_spec

def find_spec(name, *place):
    return None if name in {"torch", "jaxtyping"} else search(name, *place)

PathFinder.find_spec = find_spec
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("evaluate", "image_au_roc"),
        ("threshold", "threshold 0.25"),
        ("benchmark", "onnx"),
        ("check", "test images"),
        ("doctor", "doctor needs PyTorch"),
    ],
)
def test_verbs_of_a_line_side_computer_need_no_torch(exports, tmp_path, verb, words):
    parts = tmp_path / "parts"
    write_category(parts, n_train=2, n_test_good=1, n_per_defect=1, seed=0, size=64)
    model = shutil.copy(exports["onnxruntime"], tmp_path)
    arguments = {
        "evaluate": [model, parts, "--output", tmp_path / "found"],
        "threshold": [model, "--at", "0.25"],
        "benchmark": [model, "--repeats", "1", "--batch-size", "1", "--streams", "1"],
        "check": [parts],
        "doctor": [],
    }

    finished = subprocess.run(
        [sys.executable, "-c", VERB_WITHOUT_TORCH, verb, *arguments[verb]],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(efficientad.__file__).parents[1])},
    )

    assert "Traceback" not in finished.stderr
    assert words in (finished.stderr if verb == "doctor" else finished.stdout)
    code = {"check": 1, "doctor": 2}.get(verb, 0)
    assert finished.returncode == code, finished.stderr


def test_a_name_that_no_engine_can_open_is_one_sentence(exports, tmp_path):
    path = Path(shutil.copy(exports["onnxruntime"], tmp_path / "\udce9.onnx"))

    with pytest.raises(ModelFileError, match=r"no UTF-8.*rename or move it"):
        load_predictor(path)


def test_streams_share_the_cores_this_process_may_use(exports, monkeypatch):
    asked = []
    monkeypatch.setattr(exported_module, "usable_cores", lambda: 6)
    opened = OnnxRuntimeEngine

    def opening(path, n_threads):
        asked.append(n_threads)
        return opened(path, n_threads=n_threads)

    monkeypatch.setattr(exported_module, "OnnxRuntimeEngine", opening)

    ExportedPredictor(exports["onnxruntime"], n_streams=3)

    assert asked == [2]


def test_blocking_a_package_is_noticed(exports):
    assert "onnxruntime" in run_without(["onnxruntime"], exports["onnxruntime"]).stderr


def test_size_and_precision_are_told(predictors, exports):
    for name, predictor in predictors.items():
        assert (predictor.size, predictor.precision) == ("small", "fp32")
        assert predictor.calibration == metadata.read(exports[name]).calibration
