"""Time of a training step: the reference script's loop body, `paper` and `quick`.

    python lab/experiments/training_speed/run.py

The steps are called in turn in one process, so that a slower moment of the machine
meets all of them; the result is the median time of an image. The reference gets ready
images, while the other steps also draw, vary and cut theirs. Weights and pixels are
random: they do not change the time.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from efficientad.cli.process import keep_freed_memory
from efficientad.kernels.winograd import FAST
from efficientad.method.sizes import ModelSize
from efficientad.natural_images.pictures import open_pretraining_images
from efficientad.training.config import PAPER, Recipe
from efficientad.training.optimizers import make_optimizer, set_rate
from efficientad.training.paper_step import PaperStep
from efficientad.training.quick import QUICK, QuickRecipe, QuickStep
from efficientad.training.step import Material
from efficientad_lab.benchmark.clock import Timing, interleaved
from efficientad_lab.benchmark.random_detector import random_detector
from efficientad_lab.benchmark.reference_step import reference_networks, reference_step
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import write_run

RESULTS = Path(__file__).with_name("results")
REFERENCE = "reference"
_N_IMAGES, _SIDE = 8, 256

Step = Callable[[], object]


def package_step(size: ModelSize, recipe: Recipe) -> Step:
    """Return a whole step of this package: drawing, losses, gradients, optimizer."""
    detector, rng = random_detector(size), np.random.default_rng(0)
    for network in (detector.student, detector.autoencoder):
        network.requires_grad_(requires_grad=True)
    for network in (detector.teacher, detector.student, detector.autoencoder):
        network.operations = FAST
    pixels = rng.integers(0, 256, (_N_IMAGES, _SIDE, _SIDE, 3), np.uint8)
    natural = open_pretraining_images(None)
    material = Material(detector.teacher, pixels, natural, detector.device)
    losses = (
        QuickStep(material, recipe)
        if isinstance(recipe, QuickRecipe)
        else PaperStep(material, recipe)
    )
    trained = [*detector.student.parameters(), *detector.autoencoder.parameters()]
    optimizer = make_optimizer(
        recipe.optimizer, trained, weight_decay=recipe.weight_decay
    )
    set_rate(optimizer, 1e-6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = losses.losses(detector, rng).total()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure(size: ModelSize, repeats: int) -> dict[str, Timing]:
    """Return the time of an image with each step, the reference first."""
    images = [torch.randn(1, 3, _SIDE, _SIDE) for _ in range(3)]
    steps: dict[str, tuple[Step, int]] = {
        REFERENCE: (reference_step(reference_networks(size), lambda: images), 1),
        "paper": (package_step(size, PAPER), PAPER.batch_size),
        "quick": (package_step(size, QUICK), QUICK.batch_size),
    }
    times = interleaved({name: step for name, (step, _) in steps.items()}, repeats)
    return {
        name: Timing(tuple(ms / steps[name][1] for ms in timing.milliseconds))
        for name, timing in times.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and record every step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=get_args(ModelSize), default="small")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    times = measure(options.size, options.repeats)
    for name, timing in times.items():
        speedup = times[REFERENCE].median / timing.median
        print(f"{name:10} {timing.median:8.1f} ms an image {speedup:6.2f}", flush=True)
        run = {
            "experiment": "training_speed",
            "category": options.size,
            "variant": name,
            "seed": 0,
            "settings": {"size": options.size, "repeats": options.repeats},
            "metrics": {"milliseconds": timing.median, "speedup": speedup},
            "latency": timing.summary(),
        }
        write_run(run | environment(), options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
