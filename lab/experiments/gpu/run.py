"""Training steps on a CUDA device as one graph: correct first, then fast.

    python -m lab.experiments.gpu.run
    python -m lab.experiments.gpu.run --device cpu --sizes small --steps 2

First maps, losses and gradients on the device are compared with the plain networks on
the CPU in double precision. If a difference is above its limit, the exit code is 1 and
nothing is timed. Then it times training steps replayed as a CUDA graph, beside those of
the reference script. Weights and pixels are random: they do not change the time.
`efficientad benchmark --device cuda` measures latency and throughput.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from efficientad.engines.pytorch import PyTorchEngine
from efficientad.errors import EfficientADError
from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.detector import Detector
from efficientad.method.inputs import normalize_images
from efficientad.method.sizes import ModelSize
from efficientad_lab.benchmark.baseline import Baseline, baseline, outputs
from efficientad_lab.benchmark.clock import consecutive
from efficientad_lab.benchmark.random_detector import random_detector
from efficientad_lab.benchmark.reference_step import reference_loss, reference_step
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import write_run
from lab.experiments.gpu.networks import Batch, DeviceTraining

RESULTS = Path(__file__).with_name("results")
LIMITS: Final = {
    "maps": 1e-3,
    "step_single": 1e-3,
    "step_half": 5e-2,  # bfloat16 has eight bits
}
"""Largest norm of a difference relative to double precision."""
_SHAPE: Final = (INPUT_SIZE, INPUT_SIZE, 3)


def difference(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> float:
    """Return the norm of the difference relative to the norm, over all tensors."""
    gap = size = 0.0
    for one, other in zip(found, wanted, strict=True):
        exact = other.detach().double().cpu()
        gap += float((one.detach().double().cpu() - exact).square().sum())
        size += float(exact.square().sum())
    return math.sqrt(gap / size)


def is_correct(differences: dict[str, float]) -> bool:
    """Return whether each difference is within its limit; NaN is not."""
    return all(value <= LIMITS[name] for name, value in differences.items())


def gradients(loss: Tensor, student: Any, autoencoder: Any) -> list[Tensor]:
    """Return the gradients of all trained weights."""
    parameters = [*student.parameters(), *autoencoder.parameters()]
    return list(torch.autograd.grad(loss, parameters))


def trained_detector(size: ModelSize) -> Detector:
    """Return a detector of random weights whose student and autoencoder are trained."""
    detector = random_detector(size)
    for network in (detector.student, detector.autoencoder):
        network.requires_grad_(requires_grad=True)
    return detector


def check_step(
    size: ModelSize, device: torch.device, reference: torch.dtype
) -> dict[str, float]:
    """Compare loss and gradients of one step with the plain networks on the CPU."""
    rng = torch.Generator().manual_seed(1)
    batch = Batch(
        *(torch.randint(0, 256, (1, *_SHAPE), generator=rng).float() for _ in range(3))
    )
    plain = baseline(random_detector(size)).moved(torch.device("cpu"), reference)
    for network in (plain.student, plain.autoencoder):
        network.requires_grad_(requires_grad=True)
    image, natural, augmented = (
        normalize_images(pixels.byte()).to(reference) for pixels in batch
    )
    loss = reference_loss(plain, image, augmented, natural)
    wanted = gradients(loss, plain.student, plain.autoencoder)
    found = {}
    for name in ("single", "half") if device.type == "cuda" else ("single",):
        detector = trained_detector(size).to(device)
        nothing = torch.zeros(0, *_SHAPE, device=device)
        step = DeviceTraining(detector, nothing, nothing, 1, is_half=name == "half")
        detector.eval()  # no dropout
        own = step.losses(Batch(*(part.to(device) for part in batch)))
        of_weights = gradients(own, detector.student, detector.autoencoder)
        found[f"step_{name}"] = max(
            difference([own], [loss]), difference(of_weights, wanted)
        )
    return found


def check_maps(
    size: ModelSize, device: torch.device, reference: torch.dtype
) -> dict[str, float]:
    """Compare the raw maps of the PyTorch engine with the plain networks on the CPU."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (2, *_SHAPE), np.uint8)
    plain = baseline(random_detector(size)).moved(torch.device("cpu"), reference)
    wanted, _ = outputs(plain, torch.from_numpy(pixels))
    found = PyTorchEngine(random_detector(size).to(device)).run(pixels).grids
    grids = (torch.from_numpy(found[name]) for name in wanted)
    return {"maps": difference(grids, wanted.values())}


def checked(
    size: ModelSize, device: torch.device, reference: torch.dtype
) -> dict[str, float]:
    """Return all differences, computed without NVIDIA's shortened products (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return check_step(size, device, reference) | check_maps(size, device, reference)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(
    function: Callable[[], object], n_runs: int, device: torch.device
) -> list[float]:
    """Return the milliseconds of each run; a tenth of the runs warm up."""
    timing = consecutive(
        function, n_runs, n_warm_up=n_runs // 10, wait=lambda: synchronize(device)
    )
    return list(timing.milliseconds)


def measure_training(
    size: ModelSize, n_steps: int, device: torch.device
) -> dict[str, float]:
    """Return the time of a step, and that of the reference script."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, *_SHAPE), generator=rng).byte().to(device)
    detector = trained_detector(size).to(device)
    is_half = device.type == "cuda"
    training = DeviceTraining(detector, pixels, pixels, n_steps, is_half=is_half)
    training.run(1)  # captures, which takes some steps
    synchronize(device)
    n_before, start = training.n_steps_done, time.perf_counter()
    training.run(n_before + n_steps)
    synchronize(device)
    milliseconds = 1000 * (time.perf_counter() - start)
    plain = on_device(baseline(detector), device)
    for network in (plain.student, plain.autoencoder):
        network.train().requires_grad_(requires_grad=True)

    def images() -> Sequence[Tensor]:
        image, natural, augmented = training.draw()
        return [normalize_images(p.byte()) for p in (image, augmented, natural)]

    of_baseline = timed(reference_step(plain, images), n_steps, device)
    return {
        "loss": float(training.loss),
        "step_ms": milliseconds / n_steps,
        "baseline_step_ms": statistics.median(of_baseline),
    }


def on_device(networks: Baseline, device: torch.device) -> Baseline:
    """Return plain networks on the device, in single precision."""
    return networks.moved(device, torch.float32)


def measured(
    size: ModelSize, options: argparse.Namespace, device: torch.device
) -> dict[str, Any] | None:
    """Check and measure one size; return the run, or None if a check fails."""
    reference = {"double": torch.float64, "single": torch.float32}[options.reference]
    differences = checked(size, device, reference)
    print(size, {name: f"{value:.2e}" for name, value in differences.items()})
    if not is_correct(differences):
        return None
    metrics = measure_training(size, options.steps, device)
    for name, value in metrics.items():
        print(f"{size:7} {name:40} {value:.4g}")
    return {
        "experiment": "gpu",
        "category": "random pixels",
        "variant": f"{size}, {device.type}, {options.steps} steps",
        "seed": 0,
        "settings": {"steps": options.steps},
        "differences": differences,
        "metrics": metrics,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure and record every size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", nargs="+", default=["small", "medium"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--reference", choices=("double", "single"), default="double")
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
                print(f"gpu: {size} on {device} differs from the CPU")
                return 1
            print(write_run(run | environment(), options.results))
    except EfficientADError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
