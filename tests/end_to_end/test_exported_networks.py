"""Exports of whole networks that other tests have in small: 8 bits, few channels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import efficientad
from efficientad.calibration.normal_images import training_and_validation
from efficientad.cli.main import main
from efficientad.datasets import MIN_NORMAL_IMAGES
from efficientad.demo_parts import write_category
from efficientad.exports.calibration_images import calibration_images


@pytest.fixture(scope="module")
def normal_images(tmp_path_factory, photograph):
    folder = tmp_path_factory.mktemp("normal")
    for seed in range(3):
        Image.fromarray(photograph(256, 256, seed)).save(folder / f"{seed}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "engines"),
    [("part.onnx", ["onnxruntime", "openvino"]), ("part.xml", ["openvino"])],
)
def test_in_8_bits_all_engines_predict_as_pytorch_does(
    predictor, normal_images, photograph, tmp_path, name, engines
):
    path = tmp_path / name

    efficientad.export(predictor, path, precision="int8", images=normal_images)

    image = photograph(256, 256, seed=9)
    exact = predictor.predict(image)
    for engine in engines:
        found = efficientad.load(path, engine=engine).predict(image)
        for key, grid in exact.grids.items():
            error = np.sqrt(((found.grids[key] - grid) ** 2).mean())
            assert 0 < error < 0.2 * grid.std()


@pytest.mark.slow
def test_a_medium_detector_of_few_channels_is_exported(
    make_detector, calibrated, photograph, tmp_path
):
    medium = calibrated(make_detector("medium", n_local=64, n_global=32))

    report = efficientad.export(medium, tmp_path / "part.onnx")

    assert report.differences.artificial < 1e-4
    exported = efficientad.load(tmp_path / "part.onnx")
    assert exported.size == "medium"
    image = photograph(70, 90)
    expected = medium.predict(image).image_score
    assert exported.predict(image).image_score == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_what_an_export_loses_is_measured_on_a_labelled_category(
    predictor, tmp_path, capsys
):
    parts, model = tmp_path / "parts", tmp_path / "part.ead"
    write_category(parts, n_train=2, n_test_good=2, n_per_defect=1, seed=0, size=256)
    efficientad.save(predictor, model)
    target = tmp_path / "part.onnx"

    code = main(["export", str(model), "--output", str(target), "--verify", str(parts)])

    told = capsys.readouterr().out.splitlines()
    assert code == 0
    assert "image_au_roc loses 0.000 points" in told
    assert any(line.startswith("au_pro loses ") for line in told)
    assert any(line.endswith("test images get another decision") for line in told)


def test_an_export_finds_the_images_of_a_training_from_any_folder(
    photograph, tmp_path, monkeypatch
):
    (tmp_path / "good").mkdir()
    for seed in range(MIN_NORMAL_IMAGES + 1):
        path = tmp_path / "good" / f"{seed}.png"
        Image.fromarray(photograph(40, 40, seed)).save(path)
    monkeypatch.chdir(tmp_path)
    images, held_out = training_and_validation(
        Path("good"), validation=None, validation_share=0.3, seed=0
    )
    provenance = {"training_images": images.hash_of_name}
    provenance["validation_images"] = held_out.hash_of_name

    monkeypatch.chdir("/")

    found = calibration_images(None, provenance, 1)
    assert found[0].parent == tmp_path / "good"
