"""The scripts for a CUDA machine, in their CPU mode with tiny numbers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import gpu
import gpu_checks
import gpu_networks
import numpy as np
import pack_images
import pytest
import torch
from inference_speed import random_detector
from PIL import Image

import efficientad
from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.detector import Detector
from efficientad.method.inputs import normalize_images
from efficientad.method.placement import place_map
from efficientad.natural_images.pictures import open_pretraining_images
from efficientad.training.steps import vary_color

BENCHMARKS = Path(gpu.__file__).parent
CPU = torch.device("cpu")


def small_detector() -> Detector:
    return gpu_checks.calibrated(random_detector("small"))


@pytest.mark.slow
def test_the_gpu_script_checks_and_measures(tmp_path):
    finished = subprocess.run(
        [
            *("bash", BENCHMARKS / "gpu.sh", "--device", "cpu", "--sizes", "small"),
            *("--steps", "1", "--runs", "1", "--batches", "1"),
            *("--reference", "single", "--results", tmp_path),
        ],
        env={**os.environ, "PYTHON": sys.executable},
        check=False,
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 0, finished.stderr
    (written,) = tmp_path.iterdir()
    run = json.loads(written.read_text())
    assert run["variant"] == "small, cpu, 1 steps"
    assert gpu_checks.is_correct(run["differences"])
    assert {"step_single", "maps_single"} <= set(run["differences"])
    for name in (
        *("step_ms", "baseline_step_ms", "batch_1_latency_ms"),
        *("batch_1_images_per_second", "batch_1_baseline_images_per_second"),
    ):
        assert run["metrics"][name] > 0


@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_does(tmp_path):
    arguments = ["--steps", "20", "--runs", "5", "--results", str(tmp_path)]

    assert gpu.main(arguments) == 0


@pytest.mark.parametrize("value", [0.1, float("nan")])
def test_a_wrong_device_is_noticed(value):
    assert gpu_checks.is_correct({"maps_single": 1e-6, "step_single": 1e-6})
    assert not gpu_checks.is_correct({"maps_single": value, "step_single": 1e-6})


def test_a_machine_without_cuda_is_told(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert gpu.main([]) == 2
    assert "this machine has none" in capsys.readouterr().out


@pytest.mark.parametrize("kind", range(3))
def test_colours_vary_as_in_training(kind, rng):
    class Drawn(np.random.Generator):
        def integers(self, *_arguments, **_options):
            return kind

        def uniform(self, *_arguments, **_options):
            return 1.15

    pixels = torch.from_numpy(
        rng.integers(0, 256, (1, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    )
    training = gpu_networks.DeviceTraining(
        small_detector().requires_grad_(), pixels, pixels, 1, is_half=False
    )

    varied = training.varied(pixels.float(), torch.tensor([kind]), torch.tensor([1.15]))

    torch.testing.assert_close(
        varied, vary_color(pixels, Drawn(np.random.PCG64())).float()
    )


def test_the_device_draws_the_map_that_the_detector_predicts(rng):
    detector = small_detector()
    pixels = rng.integers(0, 256, (1, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    maps = gpu_networks.DeviceMaps(detector, 1, CPU, torch.float32)
    maps.host_pixels.copy_(torch.from_numpy(pixels))

    judged = maps.judge()[0].numpy()

    with torch.inference_mode():
        images = normalize_images(torch.from_numpy(pixels))
        grid = detector.anomaly_maps(images).combined_map[0].numpy()
    expected = place_map(grid, INPUT_SIZE, INPUT_SIZE)
    np.testing.assert_allclose(judged, expected, rtol=1e-4, atol=1e-5)


def test_the_rate_falls_for_the_last_5_percent(monkeypatch):
    pixels = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
    training = gpu_networks.DeviceTraining(
        small_detector().requires_grad_(), pixels, pixels, 40, is_half=False
    )
    rates = []
    monkeypatch.setattr(
        training,
        "take_step",
        lambda: rates.append(training.optimizer.param_groups[0]["lr"]),
    )
    training.run(40)

    assert rates == pytest.approx([1e-4] * 38 + [1e-5] * 2)


# Distillation


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_shards_hold_all_images_and_are_small(pictures, tmp_path, capsys):
    (pictures / "torn.png").write_text("no picture")
    arguments = [str(pictures), "--output", str(tmp_path), "--mib", "0.02"]
    assert pack_images.main([*arguments, "--side", "44"]) == 0
    (pictures / "torn.png").unlink()

    tars = sorted(tmp_path.glob("*.tar"))
    assert len(tars) > 1
    assert all(tar.stat().st_size <= 0.02 * 2**20 for tar in tars)
    packed = open_pretraining_images(tmp_path)
    assert len(packed) == 5
    assert packed.read(0).shape == (44, 44, 3)
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == len(tars)
    assert "left out: " in told.err
    assert "torn.png" in told.err
    assert pack_images.main(arguments) == 2
    assert "holds some of before" in capsys.readouterr().err


def test_pictures_that_cannot_be_read_make_no_shards(tmp_path, capsys):
    (tmp_path / "torn.png").write_text("no picture")

    assert pack_images.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "found none" in capsys.readouterr().err


def distil(pictures, source, output, *options, environment=None):
    return subprocess.run(
        [
            *("bash", BENCHMARKS / "gpu_distill.sh", pictures, source, output),
            *("--device", "cpu", "--no-mixed-precision", "--image-size", "64"),
            *("--batch-size", "1", "--n-held-out", "1", "--snapshots", "0.5"),
            *options,
        ],
        env={**os.environ, "PYTHON": sys.executable, **(environment or {})},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_both_teachers_are_distilled_and_a_stopped_one_goes_on(
    pictures, tmp_path, resnet18
):
    """Stopped by Ctrl-C; then only the parts of its checkpoint are moved."""
    stop = tmp_path / "stop" / "sitecustomize.py"
    stop.parent.mkdir()
    stop.write_text(
        "import signal\n"
        "from efficientad.distillation import run as distillation_run\n"
        "finished = distillation_run.Distillation.step\n"
        "def step(self, prepared):\n"
        "    loss = finished(self, prepared)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    return loss\n"
        "distillation_run.Distillation.step = step\n"
    )
    source = Path(efficientad.__file__).resolve().parents[1]
    path = {"PYTHONPATH": f"{stop.parent}:{source}"}
    first, second = tmp_path / "first", tmp_path / "second"

    stopped = distil(pictures, resnet18, first, "--steps", "2", environment=path)
    assert stopped.returncode == 128 + signal.SIGINT, stopped.stderr
    parts = sorted(first.glob("*.part-*"))
    assert len(parts) > 1
    assert all(part.stat().st_size <= 15 * 2**20 for part in parts)
    second.mkdir()
    older = second / "teacher_small.safetensors.checkpoint"
    older.write_bytes(b"of an earlier sitting")
    os.utime(older, (0, 0))
    for part in parts[1:]:
        part.rename(second / part.name)
    refused = distil(pictures, resnet18, second, "--steps", "2")
    assert refused.returncode == 2
    assert "some are missing or damaged" in refused.stderr
    assert older.read_bytes() == b"of an earlier sitting"
    parts[0].rename(second / parts[0].name)
    finished = distil(pictures, resnet18, second, "--steps", "2")

    assert finished.returncode == 0, finished.stderr
    assert "step 1 of 2" not in finished.stderr.partition("size='medium'")[0]
    for size in ("small", "medium"):
        teacher = second / f"teacher_{size}.safetensors"
        assert efficientad.load_teacher(size, teacher).size == size
    assert not list(second.glob("*.part-*"))
    again = distil(pictures, resnet18, second, "--steps", "2")
    assert again.stdout.count("is there") == 2


def test_too_few_arguments_show_the_usage():
    finished = subprocess.run(
        ["bash", BENCHMARKS / "gpu_distill.sh"],
        check=False,
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 2
    assert "gpu_distill.sh IMAGES SOURCE OUTPUT" in finished.stderr
