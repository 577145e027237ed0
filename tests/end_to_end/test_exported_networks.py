"""Exports of whole networks that other tests have in small: 8 bits, few channels."""

import numpy as np
import pytest
from PIL import Image

import efficientad
from efficientad.deployment.exported import ExportedPredictor
from efficientad.deployment.quantization import LIMIT


@pytest.fixture(scope="module")
def normal_images(tmp_path_factory, photograph):
    folder = tmp_path_factory.mktemp("normal")
    for seed in range(3):
        Image.fromarray(photograph(256, 256, seed)).save(folder / f"{seed}.png")
    return folder


@pytest.mark.slow
def test_in_8_bits_both_engines_judge_as_pytorch_does(
    judging_detector, normal_images, photograph, tmp_path
):
    path = tmp_path / "part.onnx"

    report = efficientad.export(
        judging_detector, path, precision="int8", images=normal_images
    )

    assert report.quantization is not None
    assert report.quantization.in_single_precision == ()
    assert 0 < report.quantization.error < LIMIT
    image = photograph(256, 256, seed=9)
    exact = judging_detector.predict(image)
    for engine in ("onnxruntime", "openvino"):
        found = efficientad.load_predictor(path, runtime=engine).predict(image)
        for one, other in (
            (found.local_grid, exact.local_grid),
            (found.global_grid, exact.global_grid),
        ):
            error = np.sqrt(((one - other) ** 2).mean())
            assert 0 < error < 0.2 * other.std()


@pytest.mark.slow
def test_a_medium_detector_of_few_channels_is_exported(
    make_detector, calibrated, photograph, tmp_path
):
    detector = calibrated(make_detector("medium", n_local=64, n_global=32))

    report = efficientad.export(detector, tmp_path / "part.onnx")

    assert report.largest_artificial_difference < 1e-4
    found = ExportedPredictor(tmp_path / "part.onnx")
    assert found.size == "medium"
    image = photograph(70, 90)
    expected = detector.predict(image).image_score
    assert found.predict(image).image_score == pytest.approx(expected, rel=1e-3)
