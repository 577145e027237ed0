"""Training and inference on an accelerator: correct first, then fast.

    python -m lab.experiments.gpu.run

checks and measures on a CUDA machine; `--device cpu --steps 2 --runs 2` does the same
with tiny numbers anywhere, as the tests do. With `--category`, a folder laid out like
MVTec AD's, and `--natural`, natural images, the training is a real one, and the
detector is judged on the test images afterwards.

First the networks on the device are compared with the plain ones on the CPU in double
precision: maps, losses and gradients. A difference above the limits ends it with exit
code 1, and nothing is timed. Then: `--steps` steps of training replayed as a CUDA
graph; latency from pixels on the host to the combined map on the host; throughput of
larger batches; the plain baseline of each in the same process. One JSON file a size.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import efficientad
from efficientad.errors import EfficientADError
from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.inputs import normalize_images
from efficientad.method.networks import (
    DESCRIPTOR_CHANNELS,
    Autoencoder,
    ModelSize,
    PatchDescriptionNetwork,
)
from efficientad.natural_images.pictures import open_images
from efficientad.training.calibration import calibrate, channel_statistics
from efficientad.training.environment import environment
from efficientad.training.normal_images import training_and_validation
from efficientad_lab.benchmark.baseline import Baseline, baseline, raw_maps
from efficientad_lab.benchmark.clock import consecutive
from efficientad_lab.studies.records import write_run
from lab.experiments.gpu.checks import checked, is_correct
from lab.experiments.gpu.networks import DeviceMaps, DeviceTraining

RESULTS = Path(__file__).with_name("results")

_N_NATURAL = 2000  # crops on the device, 0.4 GB
_N_BASELINE_STEPS = 200
_SHAPE = (1, -1, 1, 1)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_each(
    function: Callable[[], object], n_runs: int, device: torch.device
) -> list[float]:
    """Time each run from its start until the device is done; a tenth to warm up."""
    wait = partial(synchronize, device)
    timing = consecutive(function, n_runs, n_warm_up=n_runs // 10, wait=wait)
    return [milliseconds / 1000 for milliseconds in timing.milliseconds]


def baseline_runner(
    detector: Detector, maps: DeviceMaps, device: torch.device
) -> Callable[[], Tensor]:
    """The plain networks as the paper times them: eager, half precision on a GPU."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    plain = baseline(detector).moved(device, dtype)

    @torch.no_grad()
    def run() -> Tensor:
        both = torch.stack(raw_maps(plain, maps.host_pixels), 1).float()
        size = (INPUT_SIZE, INPUT_SIZE)
        placed = torch.nn.functional.interpolate(both, size, mode="bilinear")
        return placed.mean(1).cpu()

    return run


def measure_inference(
    detector: Detector, n: int, n_runs: int, device: torch.device
) -> dict[str, float]:
    """Latency and throughput, from pixels on the host to the map on the host."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    maps = DeviceMaps(detector, n, device, dtype)
    maps.host_pixels.copy_(torch.randint(0, 256, maps.host_pixels.shape))
    own = seconds_each(maps.judge, n_runs, device)
    start = time.perf_counter()
    for _ in range(n_runs):  # one behind the other, as a line would feed it
        maps.judge()
    synchronize(device)
    together = time.perf_counter() - start
    plain = seconds_each(baseline_runner(detector, maps, device), n_runs, device)
    return {
        "latency_ms": 1e3 * statistics.median(own),
        "latency_ms_99": 1e3 * float(np.quantile(own, 0.99)),
        "images_per_second": n * n_runs / together,
        "baseline_latency_ms": 1e3 * statistics.median(plain),
        "baseline_images_per_second": n / statistics.median(plain),
    }


def baseline_step(training: DeviceTraining, plain: Baseline) -> Callable[[], None]:
    """The loop body of the reference script: network by network, single precision."""
    half = DESCRIPTOR_CHANNELS
    device = training.pixels.device
    for network in plain[:3]:
        network.to(device)
    trained = [plain.student.train(), plain.autoencoder.train()]
    parameters = [p.requires_grad_() for m in trained for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5)
    mean, std = plain.mean.view(_SHAPE), plain.std.view(_SHAPE)

    def run() -> None:
        drawn = training.draw()
        image, natural, augmented = (normalize_images(p.byte()) for p in drawn)
        with torch.no_grad():
            teacher = (plain.teacher(image) - mean) / std
        distances = (teacher - plain.student(image)[:, :half]).square()
        hard = torch.quantile(distances, 0.999)
        loss = distances[distances >= hard].mean()
        loss = loss + plain.student(natural)[:, :half].square().mean()
        blurred = plain.autoencoder(augmented)
        with torch.no_grad():
            teacher = (plain.teacher(augmented) - mean) / std
        student = plain.student(augmented)[:, half:]
        loss = loss + (teacher - blurred).square().mean()
        loss = loss + (blurred - student).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


class Material:
    """What a detector is trained on and judged by."""

    def __init__(self, options: argparse.Namespace) -> None:
        rng = np.random.default_rng(0)
        self.category: Path | None = options.category
        size = (INPUT_SIZE, INPUT_SIZE, 3)
        if self.category is None:
            self.training = self.validation = rng.integers(0, 256, (8, *size), np.uint8)
        else:
            split = training_and_validation(
                self.category, validation=None, validation_share=0.1, seed=options.seed
            )
            self.training, self.validation = (part.pixels for part in split)
        if options.natural is None:
            self.natural = rng.integers(0, 256, (8, *size), np.uint8)
        else:
            images = open_images(options.natural)
            n = min(_N_NATURAL, len(images))
            self.natural = np.stack([images.draw(rng) for _ in range(n)])


def untrained_detector(
    size: ModelSize, material: Material, device: torch.device, seed: int
) -> Detector:
    """The shipped teacher where there is one, and untrained others."""
    torch.manual_seed(seed)
    try:
        teacher = efficientad.load_teacher(size)
    except EfficientADError:
        teacher = PatchDescriptionNetwork(size).requires_grad_(requires_grad=False)
    teacher = teacher.to(device)
    statistics_: ChannelStatistics = channel_statistics(
        teacher, material.training, device
    )
    student = PatchDescriptionNetwork(size, 2 * DESCRIPTOR_CHANNELS)
    return Detector(teacher, student, Autoencoder(), statistics_).to(device)


def measure_training(
    size: ModelSize,
    material: Material,
    options: argparse.Namespace,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, float], Detector]:
    """Train for real; give metrics, seconds and the calibrated detector."""
    detector = untrained_detector(size, material, device, options.seed)
    training = DeviceTraining(
        detector,
        torch.from_numpy(material.training).to(device),
        torch.from_numpy(material.natural).to(device),
        options.steps,
        is_half=device.type == "cuda",
    )
    training.run(1)  # captures, which takes a few steps
    synchronize(device)
    n_before, start = training.n_steps_done, time.perf_counter()
    training.run(options.steps)
    synchronize(device)
    seconds = time.perf_counter() - start
    loss = float(training.loss)
    if not math.isfinite(loss):
        raise efficientad.TrainingError(
            f"the loss is not finite after {options.steps} steps; try another seed"
        )
    each = seconds / max(1, options.steps - n_before)
    n_baseline = min(_N_BASELINE_STEPS, options.steps)
    plain = baseline_step(training, baseline(detector))
    of_baseline = seconds_each(plain, n_baseline, device)
    detector = detector.eval().requires_grad_(requires_grad=False)
    detector.runtime = "pytorch"
    detector.calibration = calibrate(detector, material.validation)
    metrics = {
        "loss": loss,
        "step_ms": 1e3 * each,
        "baseline_step_ms": 1e3 * statistics.median(of_baseline),
    }
    if material.category is not None:
        metrics |= efficientad.evaluate(detector, material.category).metrics
    return metrics, {"train": seconds}, detector


def measured(
    size: ModelSize, options: argparse.Namespace, device: torch.device
) -> dict[str, Any] | None:
    """Check, then measure everything of one size; None if a check fails."""
    reference = {"double": torch.float64, "single": torch.float32}[options.reference]
    differences = checked(size, device, reference)
    print(size, {name: f"{value:.2e}" for name, value in differences.items()})
    if not is_correct(differences):
        return None
    material = Material(options)
    metrics, seconds, detector = measure_training(size, material, options, device)
    for n in options.batches:
        found = measure_inference(detector, n, options.runs, device)
        metrics |= {f"batch_{n}_{name}": value for name, value in found.items()}
    for name, value in metrics.items():
        print(f"{size:7} {name:40} {value:.4g}")
    return {
        "experiment": "gpu",
        "category": material.category.name if material.category else "random pixels",
        "variant": f"{size}, {device.type}, {options.steps} steps",
        "seed": options.seed,
        "settings": {"steps": options.steps, "runs": options.runs},
        "differences": differences,
        "metrics": metrics,
        "seconds": seconds,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and measure; exit code 1 where the device computes something else."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", nargs="+", default=["small", "medium"])
    parser.add_argument("--steps", type=int, default=70_000)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--reference", choices=("double", "single"), default="double")
    parser.add_argument("--category", type=Path, help="trained on and judged")
    parser.add_argument("--natural", type=Path, help="images for the penalty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu: needs a CUDA device, this machine has none; use --device cpu")
        return 2
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    try:
        for size in options.sizes:
            run = measured(size, options, device)
            if run is None:
                print(f"gpu: {size} on {device} is not what the CPU computes")
                return 1
            print(write_run(run | environment(), options.results))
    except EfficientADError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
