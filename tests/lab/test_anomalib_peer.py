"""anomalib's model with a detector's weights, in a process of another environment."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from efficientad.cli import main as cli
from efficientad.errors import ConfigError, MissingDependencyError, ModelFileError
from efficientad.inspection.predictor import Predictor
from efficientad.method.decision import MapQuantiles
from efficientad.model_files import detector_file as model_file
from efficientad_lab.benchmark.anomalib_peer import AnomalibPredictor
from efficientad_lab.benchmark.candidates import Contender, contenders
from efficientad_lab.benchmark.config import BenchmarkConfig
from efficientad_lab.benchmark.peak_memory import peak_memory_mib

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)
REAL_PYTHON = ROOT / ".venv-peers/bin/python"

needs_linux = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="the system tells no peak memory"
)


@pytest.fixture
def make_plain_detector(make_detector):
    """Run by PyTorch, with other quantiles for either map."""

    def made(**settings):
        detector = make_detector(**settings)
        detector.runtime = "pytorch"
        detector.calibration = replace(
            detector.calibration, global_quantiles=MapQuantiles(0.3, 3.0)
        )
        return detector

    return made


@pytest.fixture
def fake_anomalib(tmp_path, monkeypatch):
    """A package of that name, for processes that are started from now on."""
    about = tmp_path / "packages/anomalib-0.1.dist-info/METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: anomalib\nVersion: 0.1\n")
    folders = (ROOT / "tests/lab/fake_packages", about.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))


def assert_same_as_detector(peer, detector, rng, shapes=((256, 256, 3), (50, 70, 3))):
    images = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    found, expected = peer.predict_batch(images), detector.predict_batch(images)

    assert isinstance(peer, Predictor)
    calibration = detector.calibration
    for one, other in zip(found, expected, strict=True):
        scale = np.abs(other.combined_grid).max()
        np.testing.assert_allclose(one.local_grid, other.local_grid, atol=1e-4 * scale)
        np.testing.assert_allclose(
            one.global_grid, other.global_grid, atol=1e-4 * scale
        )
        assert one.image_score == pytest.approx(other.image_score, rel=1e-3)
        assert one.threshold == other.threshold
        assert one.anomaly_map.shape == (other.height, other.width)
    # The map of an image of 256 x 256 is enlarged by anomalib, from raw maps with a
    # margin of zeros.
    both = (calibration.local_quantiles, calibration.global_quantiles)
    zero = 0.1 * np.mean([-each.low / (each.high - each.low) for each in both])
    padded = np.pad(found[0].combined_grid, 4, constant_values=zero)
    enlarged = functional.interpolate(
        torch.from_numpy(padded)[None, None], size=(256, 256), mode="bilinear"
    )
    np.testing.assert_allclose(
        found[0].anomaly_map, enlarged[0, 0].numpy(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.usefixtures("fake_anomalib")
def test_its_maps_are_those_of_the_detector(make_plain_detector, rng):
    detector = make_plain_detector()

    peer = AnomalibPredictor(detector, PYTHON)

    assert peer.versions["anomalib"] == "0.1"
    assert peer.predict_batch([]) == []
    assert_same_as_detector(peer, detector, rng)


@pytest.mark.usefixtures("fake_anomalib")
def test_so_they_are_of_the_medium_size(make_plain_detector, rng):
    detector = make_plain_detector(size="medium", n_local=24, n_global=24)

    peer = AnomalibPredictor(detector, PYTHON)

    assert peer.size == "medium"
    assert_same_as_detector(peer, detector, rng, shapes=((256, 256, 3),))


@pytest.mark.skipif(not REAL_PYTHON.is_file(), reason="`make peers` was not run here")
@pytest.mark.parametrize("size", ["small", "medium"])
def test_so_are_those_of_anomalib_itself(make_plain_detector, rng, size):
    detector = make_plain_detector(size=size)

    peer = AnomalibPredictor(detector, REAL_PYTHON)

    assert_same_as_detector(peer, detector, rng)


@pytest.mark.usefixtures("fake_anomalib")
@needs_linux
def test_each_stream_has_a_process(make_detector, tmp_path, rng):
    path = tmp_path / "part.ead"
    model_file.save(make_detector(), path)
    peer = Contender("anomalib", path, anomalib=PYTHON).open(n_streams=2)
    assert isinstance(peer, AnomalibPredictor)
    image = rng.integers(0, 256, (256, 256, 3), np.uint8)

    first, second, third = (peer.predict(image).combined_grid for _ in range(3))

    assert len({process.popen.pid for process in peer._processes}) == 2
    np.testing.assert_array_equal(first, third)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
    assert peer.peak_mib() > 100


@pytest.mark.usefixtures("fake_anomalib")
def test_a_process_that_ends_is_told_with_its_last_words(make_detector, rng):
    peer = AnomalibPredictor(make_detector(), PYTHON)
    peer._processes[0].popen.kill()
    peer._processes[0].popen.wait()

    with pytest.raises(ModelFileError, match=r"it ended: .*\(code -9\)"):
        peer.predict(rng.integers(0, 256, (256, 256, 3), np.uint8))


@pytest.mark.usefixtures("fake_anomalib")
def test_its_python_may_be_named_from_here(make_detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrapper = Path("a_python")
    wrapper.write_text(f'#!/bin/sh\necho started\nexec "{PYTHON}" "$@"\n')
    wrapper.chmod(0o755)

    peer = AnomalibPredictor(make_detector(), Path("./a_python"))

    assert peer.versions["anomalib"] == "0.1"


def test_an_environment_without_it_is_refused(make_detector, tmp_path):
    with pytest.raises(MissingDependencyError, match="No module named 'anomalib'"):
        AnomalibPredictor(make_detector(), PYTHON)
    with pytest.raises(MissingDependencyError, match="No such file"):
        AnomalibPredictor(make_detector(), tmp_path / "python")


def test_a_benchmark_measures_it_after_the_baseline(make_detector, tmp_path):
    model_file.save(make_detector(), tmp_path / "part.ead")
    config = BenchmarkConfig(anomalib=PYTHON, runtimes=("pytorch",))

    found = contenders(tmp_path / "part.ead", (), config, tmp_path)

    assert [one.name for one in found] == ["baseline", "anomalib", "pytorch"]
    assert found[1].anomalib == PYTHON


def test_a_python_without_it_is_a_sentence_on_the_command_line(
    make_detector, tmp_path, capsys
):
    path = tmp_path / "part.ead"
    model_file.save(make_detector(), path)

    arguments = ["benchmark", str(path), "--runtimes", "pytorch"]
    assert cli.main([*arguments, "--anomalib", sys.executable]) == 2

    assert "give --anomalib the Python of" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_anomalib")
@needs_linux
def test_its_memory_is_that_of_its_own_process(make_detector, tmp_path):
    model_file.save(make_detector(), tmp_path / "part.ead")
    contender = Contender("anomalib", tmp_path / "part.ead", anomalib=PYTHON)

    found = peak_memory_mib(contender, 2)

    assert 100 < found["opened"] <= found["one_image"] <= found["batch"]


def test_an_exported_file_has_no_weights_for_it(tmp_path):
    config = BenchmarkConfig(anomalib=PYTHON)

    with pytest.raises(ConfigError, match=r"needs the weights of a \.ead file"):
        contenders(Path("part.onnx"), (), config, tmp_path)


def test_a_python_that_is_nowhere_is_refused_before_exports_are_made(
    make_detector, tmp_path
):
    model_file.save(make_detector(), tmp_path / "part.ead")
    config = BenchmarkConfig(anomalib=Path("nowhere/python"))

    with pytest.raises(ConfigError, match="nowhere/python cannot be run"):
        contenders(tmp_path / "part.ead", (), config, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["part.ead"]
