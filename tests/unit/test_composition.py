from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import efficientad
from efficientad.calibration.composition import fit_composition
from efficientad.cli.main import main
from efficientad.decisions.decision import TermScale
from efficientad.engines.pytorch import PyTorchEngine
from efficientad.method.composition import (
    CELLS,
    COMPOSITION,
    Composition,
    cells_of,
)
from efficientad.model_files.detector_file import (
    DetectorFile,
    read_detector,
    write_detector,
)
from efficientad.model_files.tensors import as_arrays
from efficientad_lab.benchmark.candidates import Candidate

N = 40


@pytest.fixture(scope="module")
def normal():
    """Images whose 60 numbers vary in five directions, and a little everywhere."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(5, 60))
    usual = rng.normal(size=(N, 5)) @ directions + 0.1 * rng.normal(size=(N, 60))
    return usual.astype(np.float32)


def no_changes():
    return np.empty((0, 60), np.float32), np.empty(0, np.intp)


@pytest.mark.parametrize(
    ("network", "side", "size", "step"),
    [
        ("student", 59, 17, 14),
        ("student", 56, 14, 14),
        ("teacher", 59, 14, 15),
        ("teacher", 56, 14, 14),
    ],
)
def test_cells_are_means_within_windows_relative_to_all(network, side, size, step):
    features = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))

    found = cells_of(features.permute(1, 2, 0).numpy(), network)

    pooled = functional.avg_pool2d(features[None], size, step)[0]
    assert pooled.shape == (3, CELLS, CELLS)
    relative = (pooled - pooled.mean((1, 2), keepdim=True)).flatten(1).T
    np.testing.assert_allclose(found, relative, atol=1e-5)


def test_the_distance_is_that_of_mahalanobis(normal):
    fitted, _ = fit_composition(normal, *no_changes())

    axes = fitted.axes.astype(np.float64)
    precision = (
        np.diag(fitted.scale) @ (np.eye(60) - axes.T @ axes) @ np.diag(fitted.scale)
    )
    assert np.linalg.eigvalsh(precision).min() > 0
    centered = normal - fitted.mean
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centered, precision, centered))
    np.testing.assert_allclose(fitted.distances(normal), expected, rtol=1e-3)


def test_what_never_occurs_is_further_than_what_varies(normal):
    fitted, held_out = fit_composition(normal, *no_changes())
    rng = np.random.default_rng(1)
    odd = normal + rng.normal(size=normal.shape).astype(np.float32)

    assert np.median(fitted.distances(odd)) > 2 * held_out.max()


def test_cross_fitted_distances_are_those_of_images_that_were_held_out(normal):
    fitted, cross_fitted = fit_composition(normal[:30], *no_changes())
    held_out = fitted.distances(normal[30:])

    assert fitted.distances(normal[:30]).mean() < 0.9 * cross_fitted.mean()
    assert cross_fitted.mean() == pytest.approx(held_out.mean(), rel=0.25)


def test_changes_that_are_no_defects_count_less(normal):
    direction = np.random.default_rng(2).normal(size=60).astype(np.float32)
    changed, origins = normal[:20] + direction, np.arange(20)
    without, _ = fit_composition(normal, *no_changes())
    with_changes, _ = fit_composition(normal, changed, origins)

    new = normal[20:] - 0.7 * direction
    assert with_changes.distances(new).mean() < 0.5 * without.distances(new).mean()


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_few_or_equal_images_give_finite_distances(normal, n):
    for images in (
        normal[:n],
        np.repeat(normal[:1], n, 0),
        np.zeros((n, 60), np.float32),
    ):
        fitted, own = fit_composition(images, *no_changes())
        assert np.isfinite(own).all()
        assert np.isfinite(fitted.distances(normal)).all()


def composition_of(predictor):
    cells = (
        PyTorchEngine(predictor.detector)
        .run(
            np.random.default_rng(0).integers(0, 256, (12, 256, 256, 3), dtype=np.uint8)
        )
        .values["cells"]
    )
    return fit_composition(cells, cells[:3] + 1, np.arange(3))[0]


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_detector_file_keeps_the_gaussian(make_detector, joined, tmp_path, network):
    predictor = joined(make_detector())
    composition = composition_of(predictor)._replace(network=network)
    predictor.detector.set_composition(composition)
    weights = as_arrays(predictor.detector.state_dict())
    content = DetectorFile(weights, "small", predictor.calibration, {})
    write_detector(content, tmp_path / "part.ead")

    read = read_detector(tmp_path / "part.ead").weights

    found = Composition.from_arrays(read)
    assert found is not None
    assert found.network == network
    for values, expected in zip(found[:3], composition[:3], strict=True):
        np.testing.assert_array_equal(values, expected)


@pytest.fixture(scope="module", params=["student", "teacher"])
def with_composition(request, make_detector, joined):
    detector = make_detector()
    composition = composition_of(joined(detector))
    detector.set_composition(composition._replace(network=request.param))
    predictor = joined(detector)
    calibration = replace(
        predictor.calibration,
        terms={COMPOSITION: TermScale(20.0, 0.01)},
        second_session={"shift": (0.1, 9.0)},
    )
    return replace(predictor, calibration=calibration)


@pytest.mark.parametrize("name", ["part.onnx", "part.xml", "part.ead"])
def test_every_file_form_adds_the_same_points(with_composition, tmp_path, name):
    path = tmp_path / name
    if name == "part.ead":
        efficientad.save(with_composition, path)
    else:
        efficientad.export(with_composition, path)
    image = np.random.default_rng(3).integers(0, 256, (90, 70, 3), dtype=np.uint8)

    found = efficientad.load(path, device="cpu").predict(image)

    expected = with_composition.predict(image)
    assert abs(expected.terms[COMPOSITION]) > 0.01
    assert found.terms[COMPOSITION] == pytest.approx(
        expected.terms[COMPOSITION], rel=1e-2
    )
    assert found.image_score == pytest.approx(expected.image_score, rel=1e-2)


def test_so_do_the_plain_networks(with_composition, tmp_path):
    path = tmp_path / "part.ead"
    efficientad.save(with_composition, path)
    image = np.random.default_rng(3).integers(0, 256, (90, 70, 3), dtype=np.uint8)

    found = Candidate("baseline", path, "cpu", plain="fp32").open().predict(image)

    expected = with_composition.predict(image)
    assert found.terms[COMPOSITION] == pytest.approx(
        expected.terms[COMPOSITION], rel=1e-3
    )
    assert found.image_score == pytest.approx(expected.image_score, rel=1e-3)


def test_false_alarms_after_changes_are_shown(with_composition, tmp_path, capsys):
    path = tmp_path / "part.ead"
    efficientad.save(with_composition, path)

    assert main(["check", str(path), "--robustness"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["shift", "50%"]

    plain = replace(with_composition.calibration, second_session={})
    efficientad.save(replace(with_composition, calibration=plain), path)
    assert main(["check", str(path), "--robustness"]) == 2
    assert "calibrate it again" in capsys.readouterr().err
