"""anomalib's model with a detector's weights, in a process of another environment."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.contracts.engine_checks import check_engine

import efficientad
from efficientad.cli import main as cli
from efficientad.decisions.decision import Calibration, TermScale
from efficientad.errors import ConfigError, MissingDependencyError, ModelFileError
from efficientad.method.composition import Composition
from efficientad.method.maps import MapScale
from efficientad_lab.anomalib.engine import AnomalibEngine, open_with_weights
from efficientad_lab.benchmark.candidates import Candidate, candidates
from efficientad_lab.benchmark.config import BenchmarkConfig
from efficientad_lab.benchmark.peak_memory import peak_memory_mib

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)
REAL_PYTHON = ROOT / ".venv-peers/bin/python"

needs_linux = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="the system tells no peak memory"
)


@pytest.fixture
def fake_anomalib(tmp_path, monkeypatch):
    """A package of that name, for processes that are started from now on."""
    about = tmp_path / "packages/anomalib-0.1.dist-info/METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: anomalib\nVersion: 0.1\n")
    folders = (ROOT / "tests/lab/fake_packages", about.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))


@pytest.fixture
def make_predictor(make_detector, joined):
    """Return an untrained predictor with different scales of both maps."""

    def made(**settings):
        scales = {"local": MapScale(0.5, 2.0), "global": MapScale(0.3, 3.0)}
        return joined(make_detector(**settings), Calibration(scales, (0.1,)))

    return made


def assert_same_as_predictor(engine, predictor, rng):
    check_engine(engine)
    pixels = rng.integers(0, 256, (1, 256, 256, 3), np.uint8)
    found, expected = engine.run(pixels).grids, predictor.engine.run(pixels).grids

    assert set(found) == set(expected)
    for name, grids in expected.items():
        scale = np.abs(grids).max()
        np.testing.assert_allclose(found[name], grids, atol=1e-4 * scale)


@pytest.mark.usefixtures("fake_anomalib")
def test_its_maps_are_those_of_the_detector(make_predictor, rng):
    predictor = make_predictor()

    engine = open_with_weights(predictor, PYTHON)

    assert engine.versions["anomalib"] == "0.1"
    assert_same_as_predictor(engine, predictor, rng)


@pytest.mark.usefixtures("fake_anomalib")
def test_it_scores_by_the_maps_of_a_detector_with_a_composition(
    make_detector, joined, tmp_path, rng
):
    detector = make_detector()
    blank = np.zeros((3, 16 * len(detector.teacher_mean)), np.float32)
    detector.set_composition(Composition(blank[0], blank[1], blank[2:]))
    predictor = joined(detector)
    terms = {"composition": TermScale(20.0, 0.01)}
    calibration = replace(predictor.calibration, terms=terms)
    efficientad.save(replace(predictor, calibration=calibration), tmp_path / "a.ead")
    image = rng.integers(0, 256, (90, 70, 3), np.uint8)

    found = Candidate("a", tmp_path / "a.ead", anomalib=PYTHON).open().predict(image)

    assert not found.terms
    expected = predictor.predict(image).image_score
    assert found.image_score == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("fake_anomalib")
def test_so_they_are_of_the_medium_size(make_predictor, rng):
    predictor = make_predictor(size="medium", n_local=24, n_global=24)

    engine = open_with_weights(predictor, PYTHON)

    assert_same_as_predictor(engine, predictor, rng)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_PYTHON.is_file(), reason="`make peers` was not run here")
@pytest.mark.parametrize("size", ["small", "medium"])
def test_so_are_those_of_anomalib_itself(make_predictor, rng, size):
    predictor = make_predictor(size=size)

    engine = open_with_weights(predictor, REAL_PYTHON)

    assert_same_as_predictor(engine, predictor, rng)


@pytest.mark.usefixtures("fake_anomalib")
@needs_linux
def test_each_stream_has_a_process(predictor, tmp_path, rng):
    path = tmp_path / "part.ead"
    efficientad.save(predictor, path)
    candidate = Candidate("anomalib", path, anomalib=PYTHON)
    opened = candidate.open(n_streams=2)
    assert isinstance(opened.engine, AnomalibEngine)
    image = rng.integers(0, 256, (256, 256, 3), np.uint8)

    first, second, third = (opened.predict(image).combined_grid for _ in range(3))

    assert opened.provenance["anomalib"]["anomalib"] == "0.1"
    assert len({process.popen.pid for process in opened.engine._processes}) == 2
    np.testing.assert_array_equal(first, third)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
    assert opened.engine.peak_mib() > 100


@pytest.mark.usefixtures("fake_anomalib")
def test_a_process_that_ends_is_told_with_its_last_words(predictor, rng):
    engine = open_with_weights(predictor, PYTHON)
    engine._processes[0].popen.kill()
    engine._processes[0].popen.wait()

    with pytest.raises(ModelFileError, match=r"it ended: .*\(code -9\)"):
        engine.run(rng.integers(0, 256, (1, 256, 256, 3), np.uint8))


@pytest.mark.usefixtures("fake_anomalib")
def test_its_python_may_be_named_from_here(predictor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrapper = Path("a_python")
    wrapper.write_text(f'#!/bin/sh\necho started\nexec "{PYTHON}" "$@"\n')
    wrapper.chmod(0o755)

    engine = open_with_weights(predictor, Path("./a_python"))

    assert engine.versions["anomalib"] == "0.1"


def test_an_environment_without_it_is_refused(predictor, tmp_path):
    with pytest.raises(MissingDependencyError, match="No module named 'anomalib'"):
        open_with_weights(predictor, PYTHON)
    with pytest.raises(MissingDependencyError, match="No such file"):
        open_with_weights(predictor, tmp_path / "python")


def test_a_benchmark_measures_it_after_the_baseline(predictor, tmp_path):
    efficientad.save(predictor, tmp_path / "part.ead")
    config = BenchmarkConfig(anomalib=PYTHON, engines=("pytorch",))

    found = candidates(tmp_path / "part.ead", (), config, tmp_path)

    assert [one.name for one in found] == ["baseline", "anomalib", "pytorch"]
    assert found[1].anomalib == PYTHON


def test_a_python_without_it_is_a_sentence_on_the_command_line(
    predictor, tmp_path, capsys
):
    path = tmp_path / "part.ead"
    efficientad.save(predictor, path)

    arguments = ["benchmark", str(path), "--engines", "pytorch"]
    assert cli.main([*arguments, "--anomalib", sys.executable]) == 2

    assert "anomalib's model cannot be opened by" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_anomalib")
@needs_linux
def test_its_memory_is_that_of_its_own_process(predictor, tmp_path):
    efficientad.save(predictor, tmp_path / "part.ead")
    candidate = Candidate("anomalib", tmp_path / "part.ead", anomalib=PYTHON)

    found = peak_memory_mib(candidate, 2)

    assert 100 < found["opened"] <= found["one_image"] <= found["batch"]


def test_an_exported_file_has_no_weights_for_it(tmp_path):
    config = BenchmarkConfig(anomalib=PYTHON)

    with pytest.raises(ConfigError, match=r"needs the weights of a \.ead file"):
        candidates(Path("part.onnx"), (), config, tmp_path)


def test_a_python_that_is_nowhere_is_refused_before_exports_are_made(
    predictor, tmp_path
):
    efficientad.save(predictor, tmp_path / "part.ead")
    config = BenchmarkConfig(anomalib=Path("nowhere/python"))

    with pytest.raises(ConfigError, match="nowhere/python cannot be run"):
        candidates(tmp_path / "part.ead", (), config, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["part.ead"]
