"""Making exports: what is written, what is refused, and that nothing half is left."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from PIL import Image

import efficientad
from efficientad.engines.graph_outputs import GRID_OUTPUTS, INPUT, MAX_SIDE, RAW_OUTPUTS
from efficientad.engines.openvino import require_bf16
from efficientad.errors import (
    ConfigError,
    DatasetError,
    ExportMismatchError,
    MissingDependencyError,
    ModelFileError,
    StorageError,
    UndefinedMetricError,
)
from efficientad.evaluation.results import ScoredImage
from efficientad.exports import comparison
from efficientad.exports import export as export_module
from efficientad.exports import graph as graph_module
from efficientad.exports.calibration_images import calibration_images, spread
from efficientad.exports.graph import detector_graph
from efficientad.exports.graph_nodes import placement
from efficientad.exports.precisions import (
    with_16_bit_weights,
    with_kept_sums,
)
from efficientad.images.rgb import image_hash, resize_image
from efficientad.model_files import export_metadata as metadata


@pytest.fixture(scope="module")
def model(predictor):
    weights, size = predictor.weights, predictor.size
    return detector_graph(weights, size, predictor.calibration.scales, {})


def grids(model, image):
    """Return the grids that OpenVINO computes, all in single precision."""
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", settings
    )
    found = compiled({INPUT: image[np.newaxis]})
    return np.stack([found[name][0] for name in GRID_OUTPUTS.values()])


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_an_export_that_differs_is_refused_and_nothing_is_left(
    predictor, tmp_path, monkeypatch, suffix
):
    def wrong(*given):
        model = detector_graph(*given)
        for tensor in model.graph.initializer:
            if list(tensor.dims) == [384, 256, 4, 4]:
                value = onnx.numpy_helper.to_array(tensor) * 1.01
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        return model

    monkeypatch.setattr(graph_module, "detector_graph", wrong)
    target = tmp_path / f"part{suffix}"
    target.write_bytes(b"an earlier export")

    with pytest.raises(
        ExportMismatchError, match=r"on artificial images it differs by 0\.\d"
    ):
        efficientad.export(predictor, target)

    assert target.read_bytes() == b"an earlier export"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.usefixtures("every_artificial_image")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_export_gives_the_maps_of_pytorch_on_every_artificial_image(
    predictor, exports, engine
):
    whole = comparison.whole_engine(exports[engine], "fp32", ())

    found = comparison.compared(predictor, whole, [])

    assert found.n_artificial == 5
    assert found.artificial < 1e-4


def test_an_export_is_two_files_for_openvino_and_one_else(exports):
    names = {path.name for path in exports["onnxruntime"].parent.iterdir()}

    assert names == {"part.onnx", "part.xml", "part.bin"}


@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)]
)
def test_an_export_has_layers_of_both_networks_once(
    make_detector, calibrated, photograph, tmp_path, precision
):
    detector = make_detector()
    for index in (0, 1):
        weights = detector.teacher.convolutions[index].state_dict()
        detector.student.convolutions[index].load_state_dict(weights)
    Image.fromarray(photograph(90, 70)).save(tmp_path / "normal.png")

    efficientad.export(
        calibrated(detector),
        tmp_path / "part.onnx",
        precision=precision,
        images=tmp_path,
    )

    nodes = onnx.load(tmp_path / "part.onnx").graph.node
    names = [n.name for n in nodes if n.op_type == "Conv"]
    assert sum(name.startswith("trunk_") for name in names) == 2
    assert sum(name.startswith("teacher_") for name in names) == 2


@pytest.mark.parametrize(
    ("engine", "weights"), [("onnxruntime", ".onnx"), ("openvino", ".bin")]
)
def test_16_bits_halve_the_file_and_hardly_change_the_maps(
    predictor, exports, exported, photograph, tmp_path, engine, weights
):
    path = tmp_path / exports[engine].name

    report = efficientad.export(predictor, path, precision="fp16")

    sizes = [f.with_suffix(weights).stat().st_size for f in (path, exports[engine])]
    assert sizes[0] < 0.52 * sizes[1]
    assert report.differences.real is None
    assert 0 < report.differences.artificial < 1e-2
    assert metadata.read(path).precision == "fp16"
    image = photograph(80, 90)
    exact = exported[engine].predict(image)
    found = efficientad.load(path).predict(image)
    assert found.image_score == pytest.approx(exact.image_score, rel=1e-2)


@pytest.mark.parametrize(("has_bfloat16", "limit"), [(True, 0.05), (False, 0.01)])
def test_weights_in_16_bits_leave_the_graph_valid_and_its_maps_near(
    model, photograph, has_bfloat16, limit
):
    changed = with_16_bit_weights(model, has_bfloat16=has_bfloat16)
    onnx.checker.check_model(changed, full_check=True)
    image = photograph(256, 256)

    exact, found = grids(model, image), grids(changed, image)

    difference = np.abs(exact - found).max() / np.abs(exact).max()
    assert 0 < difference < limit


@pytest.mark.parametrize(
    ("kind", "unit"),
    [(onnx.TensorProto.BFLOAT16, 2.0**-8), (onnx.TensorProto.FLOAT16, 2.0**-11)],
)
def test_kernels_in_16_bits_keep_their_sums(kind, unit, rng):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    kernels = rng.normal(size=(8, 5, 4, 4)).astype(np.float32)

    found = with_kept_sums(kernels, dtype).astype(np.float64)

    assert np.array_equal(found.astype(dtype).astype(np.float64), found)
    assert np.abs(found - kernels).max() < 2 * unit * np.abs(kernels).max()
    error = np.abs((found - kernels.astype(np.float64)).sum((2, 3)))
    assert (error <= unit * np.abs(kernels).min((2, 3)) * 2 + 1e-6).all()
    nearest = kernels.astype(dtype).astype(np.float64)
    assert np.abs((nearest - kernels).sum((2, 3))).max() > 5 * error.max()


def test_bf16_is_refused_where_the_processor_has_none():
    require_bf16(["FP32", "BF16"])
    with pytest.raises(ConfigError, match="this one has FP32, INT8; use fp32"):
        require_bf16(["FP32", "INT8"])


def test_bf16_is_exported_where_the_processor_can(predictor, tmp_path):
    found = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in found:
        pytest.skip("needs a processor with AVX512_BF16 or AMX")

    report = efficientad.export(predictor, tmp_path / "a.xml", precision="bf16")

    assert report.differences.artificial > 0


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("part.engine", "fp32", r"name it part\.onnx, part\.xml or"),
        ("part.onnx", "bf16", r"name the output part\.xml"),
        ("part.onnx", "int8", "give --images FOLDER"),
    ],
)
def test_what_cannot_be_had_is_refused(predictor, tmp_path, name, precision, message):
    with pytest.raises(ConfigError, match=message):
        efficientad.export(predictor, tmp_path / name, precision=precision)

    assert not list(tmp_path.iterdir())


def test_an_export_is_neither_exported_again_nor_saved(exported, tmp_path):
    with pytest.raises(ConfigError, match=r"give the \.ead file it was made of"):
        efficientad.export(exported["onnxruntime"], tmp_path / "part.onnx")
    with pytest.raises(ConfigError, match="of an exported file; copy that file"):
        efficientad.save(exported["onnxruntime"], tmp_path / "part.ead")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "openvino"])
def test_a_missing_package_is_named(predictor, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDependencyError, match=rf"{package}.*\[export\]"):
        efficientad.export(predictor, tmp_path / "part.xml")


def test_a_place_that_cannot_be_written_is_found_out_first(predictor, tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageError, match="choose another output"):
        efficientad.export(predictor, tmp_path / "file" / "part.onnx")


@pytest.fixture
def evaluations(monkeypatch):
    """An evaluation whose exports are a given number of points worse."""

    class Faked:
        def __init__(self, loss, pixel_metrics):
            pixels = dict.fromkeys(pixel_metrics, 0.93 - loss / 100)
            self.metrics = {"image_au_roc": 0.99} | pixels
            self.scores = [
                ScoredImage("a.png", "good", 0.1, 1.0, "normal"),
                ScoredImage(
                    "b.png", "cut", 0.2, 0.1, "normal" if loss else "anomalous"
                ),
            ]

    def lose(points, pixel_metrics=("au_pro",)):
        def evaluate(predictor, category):
            assert (category / "train" / "good").is_dir()
            is_export = predictor.detector is None
            return Faked(points if is_export else 0.0, pixel_metrics)

        monkeypatch.setattr(comparison, "evaluate", evaluate)

    return lose


BLACK = np.zeros((256, 256, 3), np.uint8)


@pytest.fixture
def category(tmp_path, photograph):
    root = tmp_path / "category"
    for seed, place in enumerate(["train/good", "test/good", "test/cut"]):
        (root / place).mkdir(parents=True)
        Image.fromarray(photograph(50, 60, seed)).save(root / place / "a.png")
    return root


@pytest.fixture
def nothing_is_made(monkeypatch):
    monkeypatch.setattr(graph_module, "detector_graph", lambda *_: pytest.fail("made"))


@pytest.mark.usefixtures("nothing_is_made")
def test_a_category_that_cannot_be_evaluated_is_found_out_first(
    predictor, tmp_path, category
):
    target, images = tmp_path / "part.onnx", category / "train" / "good"

    def exported(verify, max_loss=0.2):
        efficientad.export(
            predictor, target, images=images, verify=verify, max_loss=max_loss
        )

    with pytest.raises(DatasetError, match="gone"):
        exported(tmp_path / "gone")
    with pytest.raises(ConfigError, match="from 0 to 100, got nan"):
        exported(category, float("nan"))
    shutil.rmtree(category / "test" / "cut")
    with pytest.raises(UndefinedMetricError, match=r"no defective.*leave --verify out"):
        exported(category)


def test_what_cannot_be_read_is_not_told_as_what_cannot_be_written(
    predictor, tmp_path, evaluations, category, monkeypatch
):
    def locked(*_):
        raise PermissionError(13, "Permission denied", "test/broken")

    evaluations(0.0)
    monkeypatch.setattr(export_module, "losses_on", locked)

    with pytest.raises(StorageError, match="cannot enter or read test/broken"):
        efficientad.export(predictor, tmp_path / "a.onnx", verify=category)

    assert list(tmp_path.iterdir()) == [category]


@pytest.mark.usefixtures("nothing_is_made")
def test_a_name_that_no_engine_can_open_is_found_out_first(predictor, tmp_path):
    with pytest.raises(ModelFileError, match="no UTF-8"):
        efficientad.export(predictor, tmp_path / "\udce9.onnx")


@pytest.mark.parametrize("suffixes", [[".onnx"], [".xml", ".bin"]])
def test_links_stay_and_the_files_they_name_are_replaced(predictor, tmp_path, suffixes):
    (tmp_path / "v3").mkdir()
    links = [tmp_path / f"current{suffix}" for suffix in suffixes]
    for link in links:
        link.symlink_to(Path("v3", f"part{link.suffix}"))
        link.write_bytes(b"an earlier one")

    efficientad.export(predictor, links[0])

    assert all(link.is_symlink() for link in links)
    assert {p.name for p in (tmp_path / "v3").iterdir()} == {
        f"part{suffix}" for suffix in suffixes
    }
    for path in (links[0], tmp_path / "v3" / f"part{suffixes[0]}"):
        assert metadata.read(path).size == "small"


def test_a_link_to_one_file_of_two_does_not_part_them(predictor, tmp_path, exports):
    (tmp_path / "v3").mkdir()
    for suffix in (".xml", ".bin"):
        kept = exports["openvino"].with_suffix(suffix)
        (tmp_path / "v3" / f"part{suffix}").write_bytes(kept.read_bytes())
    (tmp_path / "current.xml").symlink_to(Path("v3", "part.xml"))

    efficientad.export(predictor, tmp_path / "current.xml", precision="fp16")

    assert metadata.read(tmp_path / "current.xml").precision == "fp16"
    assert metadata.read(tmp_path / "v3" / "part.xml").precision == "fp32"


@pytest.mark.parametrize("metric", ["au_pro", "au_spro"])
def test_an_export_that_loses_accuracy_is_refused(
    predictor, tmp_path, evaluations, category, metric
):
    evaluations(0.3, [metric])
    with pytest.raises(
        ExportMismatchError, match=rf"lose 0\.2 points of {metric} .* loses 0\.3;"
    ):
        efficientad.export(predictor, tmp_path / "a.onnx", verify=category)

    assert list(tmp_path.iterdir()) == [category]


def test_the_accuracy_lost_is_told(predictor, tmp_path, evaluations, category):
    evaluations(0.15)

    report = efficientad.export(predictor, tmp_path / "a.onnx", verify=category)

    assert report.differences.n_artificial == report.differences.n_real == 1
    assert report.losses is not None
    assert report.losses.points["au_pro"] == pytest.approx(0.15)
    assert "au_pro loses 0.150 points" in report.lines()
    assert "1 of 2 test images get another decision; " in report.lines()[-1]


def test_it_is_told_that_no_pixels_were_evaluated(
    predictor, tmp_path, evaluations, category
):
    evaluations(0.0, [])

    report = efficientad.export(predictor, tmp_path / "a.onnx", verify=category)

    assert report.lines()[1:] == [
        "image_au_roc loses 0.000 points",
        "no loss of a pixel metric is known: no defect is annotated",
        "0 of 2 test images get another decision",
    ]


@pytest.mark.parametrize("name", ["part.onnx", "part.xml"])
def test_maps_that_are_not_those_of_the_grids_are_refused(
    predictor, tmp_path, monkeypatch, name
):
    def doubled(graph, pixels):
        return graph.op("Mul", placement(graph, pixels), graph.constant(2))

    monkeypatch.setattr(graph_module, "placement", doubled)

    with pytest.raises(ExportMismatchError, match="combined_map must follow from its"):
        efficientad.export(predictor, tmp_path / name)

    assert not list(tmp_path.iterdir())


def test_grids_that_are_not_those_of_the_raw_grids_are_refused(
    predictor, tmp_path, monkeypatch
):
    """Engines read the raw grids, other programs what the graph makes of them."""
    raw = RAW_OUTPUTS["local"]

    def wrong(*given):
        model = detector_graph(*given)
        (node,) = (n for n in model.graph.node if n.output[0] == raw)
        node.output[0] = "inner"
        for reader in model.graph.node:
            reader.input[:] = ["inner" if k == raw else k for k in reader.input]
        squares = onnx.helper.make_node("Mul", ["inner", "inner"], [raw])
        model.graph.node.append(squares)
        return model

    monkeypatch.setattr(graph_module, "detector_graph", wrong)

    with pytest.raises(ExportMismatchError, match="local_grid must follow from its"):
        efficientad.export(predictor, tmp_path / "part.onnx")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [0, 1])
def test_a_difference_that_is_no_number_is_refused_wherever_it_comes(
    predictor, tmp_path, monkeypatch, place
):
    differences = iter([0.0, np.nan] if place else [np.nan, 0.0])
    monkeypatch.setattr(comparison, "artificial_images", lambda: [BLACK, BLACK])
    monkeypatch.setattr(comparison, "_difference", lambda *_: next(differences))

    with pytest.raises(ExportMismatchError, match="differs by nan"):
        efficientad.export(predictor, tmp_path / "part.onnx")

    assert not list(tmp_path.iterdir())


def test_of_two_files_none_is_replaced_alone(predictor, tmp_path, monkeypatch):
    target = tmp_path / "part.xml"
    target.write_bytes(b"an earlier graph")
    target.with_suffix(".bin").write_bytes(b"its weights")
    moved = Path.replace

    def fails_for_the_graph(path, place):
        if place == target:
            raise OSError(28, "No space left on device")
        return moved(path, place)

    monkeypatch.setattr(Path, "replace", fails_for_the_graph)
    with pytest.raises(StorageError, match="No space left"):
        efficientad.export(predictor, target)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "part.xml": b"an earlier graph",
        "part.bin": b"its weights",
    }


@pytest.fixture
def own_images(photograph, tmp_path):
    """Images that a detector remembers, by their purpose."""
    made = {}
    for seed, kind in enumerate(["training_images", "validation_images"]):
        image = photograph(60, 50, seed)
        path = tmp_path / f"{kind}.png"
        Image.fromarray(image).save(path)
        made[kind] = path, image
    return made


@pytest.fixture
def remembering(predictor, own_images):
    """A predictor whose provenance names these images."""
    provenance = {k: {str(p): image_hash(i)} for k, (p, i) in own_images.items()}
    return replace(predictor, provenance=provenance)


def test_an_export_is_compared_on_the_images_of_the_calibration(
    remembering, own_images
):
    (validation_path, _), (training_path, _) = (
        own_images[kind] for kind in ("validation_images", "training_images")
    )

    def found():
        return calibration_images(None, remembering.provenance, 8)

    assert found() == [validation_path]
    validation_path.write_bytes(training_path.read_bytes())
    assert found() == [training_path]
    training_path.unlink()
    assert found() == []


def test_without_images_those_of_the_detector_are_compared(
    remembering, own_images, tmp_path
):
    sentence = "compared on artificial images only; give --images FOLDER"

    report = efficientad.export(remembering, tmp_path / "part.onnx")
    assert (report.differences.n_artificial, report.differences.n_real) == (1, 1)
    assert sentence not in report.lines()
    differences = report.differences.real, report.differences.artificial
    told = "{:.2g} on 1 real and {:.2g} on 1 artificial images".format(*differences)
    assert report.lines()[0] == f"largest difference from PyTorch {told}"

    for path, _ in own_images.values():
        path.unlink()
    report = efficientad.export(remembering, tmp_path / "part.onnx")
    assert (report.differences.n_artificial, report.differences.n_real) == (1, 0)
    assert sentence in report.lines()
    with pytest.raises(ConfigError, match="give --images FOLDER"):
        efficientad.export(remembering, tmp_path / "b.onnx", precision="int8")


def test_8_bits_are_measured_on_the_images_of_the_detector(
    remembering, own_images, tmp_path, monkeypatch
):
    measured = []

    def quantized(model, images):
        measured.extend(images)
        return model

    monkeypatch.setattr("efficientad.exports.quantization.quantized", quantized)
    efficientad.export(remembering, tmp_path / "a.onnx", precision="int8")

    expected = resize_image(own_images["validation_images"][1], 256, 256)
    assert np.array_equal(measured, [expected])


def test_an_image_larger_than_a_graph_takes_is_compared_made_small(predictor, exports):
    line_scan = np.zeros((8, MAX_SIDE + 1, 3), np.uint8)
    line_scan[:, ::7] = 200
    engine = comparison.whole_engine(exports["onnxruntime"], "fp32", ())

    found = comparison.compared(predictor, engine, [line_scan])

    assert found.n_real == 1
    assert found.real is not None
    assert found.real < 1e-4


def test_images_are_spread_over_all_there_are(predictor, exports, monkeypatch):
    assert spread(range(32), 8) == [0, 4, 8, 12, 16, 20, 24, 28]
    assert spread("abc", 8) == ["a", "b", "c"]
    images = [np.full((8, 8, 3), value, np.uint8) for value in range(32)]
    seen = []

    def noted(*given):
        seen.append(int(given[-1].max()))
        return 0.0

    monkeypatch.setattr(comparison, "artificial_images", lambda: [BLACK])
    monkeypatch.setattr(comparison, "_difference", noted)
    engine = comparison.whole_engine(exports["onnxruntime"], "fp32", ())

    assert comparison.compared(predictor, engine, images).n_real == 8
    assert seen == [0, *spread(range(32), 8)]


@pytest.mark.gpu
def test_a_detector_on_a_gpu_is_exported_as_on_a_cpu(make_detector, joined, tmp_path):
    """Where products of single precision are shortened unless told otherwise."""
    detector = make_detector().to("cuda")

    report = efficientad.export(joined(detector), tmp_path / "part.onnx")

    assert report.differences.artificial < 1e-4
    assert detector.device.type == "cuda"
