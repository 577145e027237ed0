"""The experiment for a CUDA machine, in its CPU mode with tiny numbers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from efficientad.images.rgb import INPUT_SIZE
from efficientad.training.paper_step import vary_color
from lab.experiments.gpu import networks as gpu_networks
from lab.experiments.gpu import run as gpu

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_gpu_script_checks_and_measures(tmp_path):
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "lab.experiments.gpu.run"),
            *("--device", "cpu", "--sizes", "small"),
            *("--steps", "1", "--reference", "single", "--results", tmp_path),
        ],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 0, finished.stderr
    (written,) = tmp_path.iterdir()
    run = json.loads(written.read_text())
    assert run["variant"] == "small, cpu, 1 steps"
    assert gpu.is_correct(run["differences"])
    assert {"step_single", "maps"} <= set(run["differences"])
    for name in ("step_ms", "baseline_step_ms"):
        assert run["metrics"][name] > 0


@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_does(tmp_path):
    assert gpu.main(["--steps", "20", "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize("value", [0.1, float("nan")])
def test_a_wrong_device_is_noticed(value):
    assert gpu.is_correct({"maps": 1e-6, "step_single": 1e-6})
    assert not gpu.is_correct({"maps": value, "step_single": 1e-6})


def test_a_machine_without_cuda_is_told(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert gpu.main([]) == 2
    assert "this machine has none" in capsys.readouterr().out


@pytest.mark.parametrize("kind", range(3))
def test_colors_vary_as_in_training(kind, rng):
    class Drawn(np.random.Generator):
        def integers(self, *_arguments, **_options):
            return kind

        def uniform(self, *_arguments, **_options):
            return 1.15

    pixels = torch.from_numpy(
        rng.integers(0, 256, (1, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    )
    training = gpu_networks.DeviceTraining(
        gpu.trained_detector("small"), pixels, pixels, 1, is_half=False
    )

    varied = training.varied(pixels.float(), torch.tensor([kind]), torch.tensor([1.15]))

    torch.testing.assert_close(
        varied, vary_color(pixels, Drawn(np.random.PCG64())).float()
    )


def test_the_rate_falls_for_the_last_5_percent(monkeypatch):
    pixels = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
    training = gpu_networks.DeviceTraining(
        gpu.trained_detector("small"), pixels, pixels, 40, is_half=False
    )
    rates = []
    monkeypatch.setattr(
        training,
        "take_step",
        lambda: rates.append(training.optimizer.param_groups[0]["lr"]),
    )
    training.run(40)

    assert rates == pytest.approx([1e-4] * 38 + [1e-5] * 2)
