"""Every engine and language says what the golden vectors say."""

import json
import os
import re
import runpy
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tests.c_interface import SOURCES, build_library

import efficientad
from efficientad.engines.graph_outputs import MAX_SIDE
from efficientad.engines.names import EngineName
from efficientad.engines.native import NativeEngine
from efficientad.engines.pytorch import PyTorchEngine
from efficientad.images.decoding import MAX_PIXELS, MIN_SIDE
from efficientad.images.heatmaps import heatmap
from efficientad.images.rgb import read_image
from efficientad.kernels import layers
from efficientad.model_files import export_metadata as metadata
from efficientad_lab.benchmark.baseline import BaselineEngine

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "cpp"
GOLDEN = runpy.run_path(str(REPOSITORY / "tests" / "golden" / "make_deployment.py"))
FOLDER, STEP = GOLDEN["FOLDER"], GOLDEN["STEP"]
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
# By what the Python package can run an export on a CPU.
ENGINES: dict[str, tuple[EngineName, ...]] = {
    ".onnx": ("onnxruntime", "openvino"),
    ".xml": ("openvino",),
}
CLASS_OF = {"plain": BaselineEngine, "pytorch": PyTorchEngine, "native": NativeEngine}
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
def golden():
    return GOLDEN["golden_predictor"]()


@pytest.fixture(scope="module", params=ENGINES)
def exported(request, golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / f"part{request.param}"
    efficientad.export(golden, path)
    return path


def opened(engine, golden, folder):
    if engine == "plain":
        return replace(golden, engine=BaselineEngine(golden.detector))
    efficientad.save(golden, folder / "part.ead")
    return efficientad.load(folder / "part.ead", engine=engine)


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


@pytest.mark.parametrize("engine", CLASS_OF)
def test_python_meets_the_golden_vectors(engine, golden, tmp_path):
    if engine == "native" and not layers.is_available():
        pytest.skip("needs a C++ compiler for the native layers")
    predictor = opened(engine, golden, tmp_path)
    assert isinstance(predictor.engine, CLASS_OF[engine])
    assert_predicts_golden(predictor)


def test_an_export_meets_the_golden_vectors(exported):
    for engine in ENGINES[exported.suffix]:
        assert_predicts_golden(efficientad.load(exported, engine=engine))


def test_the_images_are_of_different_kinds_and_decided_differently():
    modes = set()
    for name in EXPECTED:
        with Image.open(FOLDER / name) as picture:
            modes.add(picture.mode)
    decided = {expected["is_anomalous"] for expected in EXPECTED.values()}

    assert modes == {"RGB", "RGBA", "I;16"}
    assert decided == {True, False}


def test_another_map_is_noticed(golden, tmp_path):
    name = "rgb.png"
    found = opened("plain", golden, tmp_path).predict(FOLDER / name)
    said = (found.image_score, found.p_value, found.is_anomalous)
    assert_golden(name, *said, found.anomaly_map)

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_golden(name, *said, found.anomaly_map * 1.01)


# C++


def test_cpp_has_the_numbers_of_the_python_package():
    text = "".join(path.read_text() for path in sorted(EXAMPLE.glob("*.[ch]*")))
    expected = {
        "format_version": metadata.FORMAT_VERSION,
        "min_side": MIN_SIDE,
        "max_side": MAX_SIDE,
        "max_pixels": MAX_PIXELS,
    }

    found = re.findall(r"constexpr \S+ (\w+) = ([\d']+);", text)

    said = {name: int(number.replace("'", "")) for name, number in found}
    assert {name: said.get(name) for name in expected} == expected


def openvino_dir():
    """Where CMake finds OpenVINO: its Python package carries library and headers."""
    found = find_spec("openvino")
    return Path(str(found.origin)).parent / "cmake" if found is not None else None


def json_headers():
    """Where the headers of nlohmann/json are, if their Python package is installed."""
    found = find_spec("nlohmann_json")
    return Path(str(found.origin)).parent / "include" if found is not None else None


def missing_tool():
    """What every build of the example lacks here, or None."""
    return next((t for t in ("cmake", "c++") if shutil.which(t) is None), None)


def missing_for_cpp():
    """What the example's build with OpenVINO lacks here, or None."""
    folder = openvino_dir()
    if folder is None or not (folder / "OpenVINOConfig.cmake").is_file():
        return "the openvino package"
    return missing_tool()


def built_example(name, build, *options):
    """Build a program of the example, or skip."""
    configured = subprocess.run(
        [
            *("cmake", "-S", EXAMPLE, "-B", build, *options),
            *("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-Werror"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    lacking = re.search(
        r"Could (?:NOT|not) find (\w+)|provided by \"(\w+)\"", configured.stderr
    )
    if configured.returncode != 0 and lacking is not None:
        pytest.skip(f"the C++ example needs {lacking[1] or lacking[2]}")
    assert configured.returncode == 0, configured.stderr
    built = subprocess.run(
        ["cmake", "--build", build], check=False, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return build / name


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    missing = missing_for_cpp()
    if missing is not None:
        pytest.skip(f"the C++ example needs {missing}")
    return built_example(
        "predict",
        tmp_path_factory.mktemp("cpp"),
        f"-DOpenVINO_DIR={openvino_dir()}",
        f"-DNLOHMANN_JSON_INCLUDE={json_headers() or ''}",
    )


@pytest.fixture(scope="module")
def native_program(tmp_path_factory):
    """The program with the C interface, beside the library and its header."""
    missing = missing_tool()
    if missing is not None or not layers.is_available():
        pytest.skip(f"the C++ example needs {missing or 'the native layers'}")
    folder = tmp_path_factory.mktemp("library")
    build_library(folder / "libefficientad.so")
    shutil.copy(SOURCES / "efficientad.h", folder)
    build = tmp_path_factory.mktemp("native_cpp")
    return built_example("predict_native", build, f"-DEFFICIENTAD_DIR={folder}")


@pytest.fixture(scope="module")
def native_export(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "part.native"
    efficientad.export(golden, path)
    return path


def run(program, *arguments):
    return subprocess.run(
        [program, *arguments],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
    )


def assert_program_says_golden(program, model, name, folder):
    """Return the lines behind the decision."""
    picture, raw = folder / "heatmap.png", folder / "map.f32"

    finished = run(program, model, FOLDER / name, picture, raw)

    assert finished.returncode == EXPECTED[name]["is_anomalous"], finished.stderr
    score, p_value, threshold, decision, *more = finished.stdout.splitlines()
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
    high = 2 * float(threshold.removeprefix("threshold "))
    expected = heatmap(anomaly_map, low=0, high=high).astype(int)
    difference = np.abs(read_image(picture).astype(int) - expected)
    # The next color of the scale, where a value lies between two.
    assert difference.max() <= 4
    assert (difference.max(axis=-1) > 0).mean() < 0.01
    return more


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_cpp_meets_the_golden_vectors(program, exported, tmp_path, name):
    assert assert_program_says_golden(program, exported, name, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_the_c_interface_meets_the_golden_vectors(
    native_program, native_export, golden, tmp_path, name
):
    lines = assert_program_says_golden(native_program, native_export, name, tmp_path)

    regions = golden.predict(FOLDER / name).regions
    assert lines == [
        f"region x {r.x} y {r.y} width {r.width} height {r.height} area {r.area:.2f} "
        f"peak {r.peak:.9g}"
        for r in regions
    ]


@pytest.mark.slow
def test_the_program_with_the_c_interface_says_what_is_wrong(
    native_program, native_export, tmp_path
):
    heatmap_path, image = tmp_path / "heatmap.png", FOLDER / "rgb.png"
    for message, arguments in (
        ("is not a native export of efficientad", (image, image)),
        ("no model file at", (tmp_path / "part.native", image)),
        ("cannot open", (native_export, tmp_path / "nothing.png")),
    ):
        assert_fails(native_program, message, *arguments, heatmap_path)
    assert_fails(native_program, "usage: predict_native MODEL", native_export)


def assert_fails(program, message, *arguments):
    """One sentence, code 2, and no heatmap."""
    finished = run(program, *arguments)
    assert finished.returncode == 2
    # Where a file is no model at all, OpenVINO's reader speaks before.
    *others, last = finished.stderr.splitlines()
    assert message in last
    assert not others or "OpenVINO" in message
    assert not any(path.is_file() for path in arguments[2:])


@pytest.mark.slow
def test_cpp_says_what_is_wrong(program, exported, tmp_path):
    heatmap_path, image = tmp_path / "heatmap.png", FOLDER / "rgb.png"
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "half.png").write_bytes(image.read_bytes()[:1000])
    for name, size in {"small": (9, 7), "long": (MAX_SIDE + 1, 8)}.items():
        Image.new("L", size).save(tmp_path / f"{name}.png")
    cases = {
        "text.png is damaged or no PNG": (exported, tmp_path / "text.png"),
        "half.png is damaged or no PNG": (exported, tmp_path / "half.png"),
        "cannot open": (exported, tmp_path / "nothing.png"),
        "has 9 x 7 pixels, an image needs at least": (exported, tmp_path / "small.png"),
        "no side may have more than 40000": (exported, tmp_path / "long.png"),
        "no model OpenVINO can read": (image, image),
    }
    for message, arguments in cases.items():
        assert_fails(program, message, *arguments, heatmap_path)
    assert_fails(program, "usage: predict MODEL", exported)
    nowhere = tmp_path / "nowhere" / "heatmap.png"
    assert_fails(program, "cannot write", exported, image, nowhere)


def with_text(exported, folder, change):
    """Copy an export; what it says about itself is changed, the graph is not."""
    for path in exported.parent.glob("part.*"):
        shutil.copy(path, folder)
    path = folder / exported.name
    text, rest = metadata._split(path)
    path.write_bytes(metadata._joined(path, change(json.loads(str(text))), rest))
    return path


@pytest.mark.slow
def test_cpp_says_what_is_wrong_with_what_an_export_says(program, exported, tmp_path):
    incomplete = "does not hold a complete calibration"
    for message, entries in (
        ("has export format 99, this program reads 3", {"format": 99}),
        ('has export format "two"', {"format": "two"}),
        (incomplete, {"calibration": {}}),
        (incomplete, {"threshold": None}),
    ):
        path = with_text(exported, tmp_path, lambda c, e=entries: json.dumps(c | e))
        assert_fails(
            program, message, path, FOLDER / "rgb.png", tmp_path / "heatmap.png"
        )
    for text in ("{", "[]", "{}"):
        path = with_text(exported, tmp_path, lambda _, t=text: t)
        arguments = path, FOLDER / "rgb.png", tmp_path / "heatmap.png"
        assert_fails(program, "is not an export of efficientad", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("entries", [{"more": [{}]}, {"format": 2}])
def test_cpp_takes_older_files_and_entries_it_does_not_know(
    program, exported, tmp_path, entries
):
    path = with_text(exported, tmp_path, lambda c: json.dumps(c | entries))

    finished = run(program, path, FOLDER / "rgb.png", tmp_path / "heatmap.png")

    assert finished.returncode == EXPECTED["rgb.png"]["is_anomalous"], finished.stderr


def graph_that_says(path, score, factor):
    """Write a graph with this score, and the red of an image by a factor as map."""
    shape = ["batch", "height", "width"]
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["values", "red"], ["map"], axis=3),
        helper.make_node("Mul", ["map", "factor"], ["combined_map"]),
        helper.make_node("Identity", ["score"], ["image_score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [*shape, 3])],
        [
            helper.make_tensor_value_info("combined_map", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("image_score", TensorProto.FLOAT, [1]),
        ],
        [
            numpy_helper.from_array(np.array(0), "red"),
            numpy_helper.from_array(np.array(factor, np.float32), "factor"),
            numpy_helper.from_array(np.array([score], np.float32), "score"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    content = {
        "format": metadata.FORMAT_VERSION,
        "threshold": 1.0,
        "calibration": {"normal_scores": [0.5, 1.0]},
    }
    helper.set_model_props(model, {metadata.KEY: json.dumps(content)})
    onnx.save(model, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("score", "factor"), [(np.nan, 1.0), (np.inf, 1.0), (0.5, np.nan), (2.0, np.nan)]
)
def test_cpp_takes_what_is_not_a_number_for_an_error(program, tmp_path, score, factor):
    path = tmp_path / "part.onnx"
    arguments = path, FOLDER / "rgb.png", tmp_path / "heatmap.png"
    graph_that_says(path, score, factor)

    assert_fails(program, "gives a score or a map that is not a number", *arguments)

    graph_that_says(path, 0.5, 1.0)
    assert run(program, *arguments).returncode == 0


def png_of_16_bits(path, values):
    """Write RGB of 16 bits, which Pillow does not."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ):
            checksum = zlib.crc32(kind + content)
            file.write(struct.pack(">I", len(content)) + kind + content)
            file.write(struct.pack(">I", checksum))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGB of 16 bits"])
def test_cpp_reads_the_same_pixels_as_python(program, tmp_path, rng, mode):
    path, raw = tmp_path / "a.png", tmp_path / "map.f32"
    values = rng.integers(0, 2**16, (20, 30, 3), dtype=np.uint16)
    if mode == "I;16":
        Image.fromarray(values[..., 0]).save(path)
    elif mode == "RGB of 16 bits":
        png_of_16_bits(path, values)
    else:
        Image.fromarray((values >> 8).astype(np.uint8)).convert(mode).save(path)
    graph_that_says(tmp_path / "part.onnx", 0.5, 1.0)

    finished = run(program, tmp_path / "part.onnx", path, tmp_path / "heatmap.png", raw)

    assert finished.returncode == 0, finished.stderr
    red = np.fromfile(raw, np.float32).reshape(20, 30)
    assert np.array_equal(red, read_image(path)[..., 0])


@pytest.mark.slow
def test_cpp_writes_whole_files_and_leaves_what_is_none(program, tmp_path):
    graph_that_says(tmp_path / "part.onnx", 0.5, 1.0)
    given = tmp_path / "part.onnx", FOLDER / "rgb.png"
    pipe, link, raw = (tmp_path / name for name in ("pipe", "link.png", "map.f32"))
    os.mkfifo(pipe)
    link.symlink_to("behind.png")
    raw.write_text("an earlier map")
    (tmp_path / "map.f32.partial").mkdir()

    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        try:
            assert run(program, *given, pipe).returncode == 0
            read, _ = reader.communicate(timeout=60)
        finally:
            reader.kill()
    assert read.startswith(b"\x89PNG")
    assert pipe.is_fifo()
    for _ in range(2):  # first to where nothing is yet
        assert run(program, *given, link).returncode == 0
        assert link.is_symlink()
        assert (tmp_path / "behind.png").read_bytes() == read
    assert "cannot write" in run(program, *given, link, raw).stderr
    assert raw.read_text() == "an earlier map"
    assert (tmp_path / "map.f32.partial").is_dir()
    assert not list(tmp_path.glob("*.png.partial"))
