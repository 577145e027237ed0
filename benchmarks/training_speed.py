"""Time of a training step: the reference script's loop body against this package's.

    python benchmarks/training_speed.py --output benchmarks/results

All are called in turn in one process, so that a slower moment of the machine meets all
of them; medians an image. The reference is the loop body of the public script
(nelson1425) written anew: plain layers, float32, three passes of the student, two of
the teacher, `torch.quantile`, Adam. Its three images are ready made, while this
package's steps also draw, vary and cut theirs. Weights and pixels are random, they do
not change the time.

Below the two presets stand the same steps without one of their ideas each.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final, get_args
from unittest import mock

import numpy as np
import torch
from inference_speed import random_detector
from records import RESULTS, write_run
from torch import Tensor, nn
from torch.nn import functional

from efficientad.kernels.native import keep_freed_memory
from efficientad.method.detector import Detector
from efficientad.method.networks import (
    DESCRIPTOR_CHANNELS,
    ModelSize,
    PatchDescriptionNetwork,
)
from efficientad.method.placement import GRID_CELLS
from efficientad.natural_images.pictures import (
    PretrainingImages,
    open_pretraining_images,
)
from efficientad.training.config import PAPER, QUICK, QuickRecipe, Recipe
from efficientad.training.kept_descriptors import KeptDescriptors
from efficientad.training.optimizers import make_optimizer, set_rate
from efficientad.training.steps import PaperStep, QuickStep
from efficientad_lab.benchmark.baseline import Baseline, autoencoder, pdn
from efficientad_lab.benchmark.clock import Timing, interleaved

REFERENCE: Final = "reference"
_N_IMAGES, _SIDE = 8, 256
_HARD_QUANTILE: Final = 0.999

Step = Callable[[], object]


def reference_networks(size: ModelSize) -> Baseline:
    """The script's networks with random weights, the trained ones in training mode."""
    torch.manual_seed(0)
    return Baseline(
        teacher=pdn(size, DESCRIPTOR_CHANNELS).eval().requires_grad_(False),  # noqa: FBT003
        student=pdn(size, 2 * DESCRIPTOR_CHANNELS).train(),
        autoencoder=autoencoder().train(),
        mean=torch.zeros(DESCRIPTOR_CHANNELS),
        std=torch.ones(DESCRIPTOR_CHANNELS),
    )


def reference_loss(
    networks: Baseline, image: Tensor, augmented: Tensor, natural: Tensor
) -> Tensor:
    """The sum of the four losses, as the script's loop body has them."""
    shape = (1, -1, 1, 1)
    mean, std = networks.mean.view(shape), networks.std.view(shape)
    n = DESCRIPTOR_CHANNELS
    with torch.no_grad():
        teacher = (networks.teacher(image) - mean) / std
    distance = (teacher - networks.student(image)[:, :n]) ** 2
    hard = distance[distance >= torch.quantile(distance, _HARD_QUANTILE)].mean()
    penalty = (networks.student(natural)[:, :n] ** 2).mean()
    described = networks.autoencoder(augmented)
    with torch.no_grad():
        teacher = (networks.teacher(augmented) - mean) / std
    imitated = networks.student(augmented)[:, n:]
    described_badly = ((teacher - described) ** 2).mean()
    imitated_badly = ((described - imitated) ** 2).mean()
    loss: Tensor = hard + penalty + described_badly + imitated_badly
    return loss


def reference_step(size: ModelSize) -> Step:
    """The script's loop body on images that are there already."""
    networks = reference_networks(size)
    optimizer = torch.optim.Adam(
        [*networks.student.parameters(), *networks.autoencoder.parameters()],
        lr=1e-4,
        weight_decay=1e-5,
    )
    images = [torch.randn(1, 3, _SIDE, _SIDE) for _ in range(3)]

    def step() -> None:
        loss = reference_loss(networks, *images)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


class PackageStep:
    """A whole step of this package: drawing, losses, gradients, optimizer."""

    def __init__(
        self,
        size: ModelSize,
        recipe: Recipe,
        natural: PretrainingImages | None,
        switched: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        detector = random_detector(size)
        trained: list[nn.Module] = [detector.student, detector.autoencoder]
        for network in trained:
            network.requires_grad_(requires_grad=True)
        self._rng = np.random.default_rng(0)
        self._step = _step_of(detector, recipe, natural, self._rng)
        self._switched = switched
        parameters = [p for network in trained for p in network.parameters()]
        self._optimizer = make_optimizer(
            recipe.optimizer, parameters, weight_decay=recipe.weight_decay
        )
        set_rate(self._optimizer, 1e-6)

    def __call__(self) -> None:
        """Take one."""
        with self._switched():
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._step.losses(self._rng).total()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()


def _step_of(
    detector: Detector,
    recipe: Recipe,
    natural: PretrainingImages | None,
    rng: np.random.Generator,
) -> PaperStep | QuickStep:
    pixels = rng.integers(0, 256, (_N_IMAGES, _SIDE, _SIDE, 3), np.uint8)
    if recipe.quick is None:
        return PaperStep(detector, pixels, natural, recipe)
    kept = KeptDescriptors(detector.teacher, pixels, detector.device)
    return QuickStep(detector, pixels, kept, natural, recipe, recipe.quick)


def _without_fast_convolutions() -> AbstractContextManager[object]:
    return mock.patch("efficientad.kernels.winograd.is_faster", return_value=False)


def _with_small_tiles() -> AbstractContextManager[object]:
    return mock.patch("efficientad.kernels.winograd._TILES_FOR_WEIGHTS", 10**9)


def _with_relu_and_pooling_apart() -> AbstractContextManager[object]:
    def plain(image: Tensor, *, padding: int) -> Tensor:
        return functional.avg_pool2d(functional.relu(image), 2, 2, padding=padding)

    return mock.patch("efficientad.method.networks.relu_pool", plain)


def _image_by_image() -> AbstractContextManager[object]:
    hidden = PatchDescriptionNetwork.hidden

    def apart(
        network: PatchDescriptionNetwork, images: Tensor, *, padded: bool = False
    ) -> Tensor:
        each = [hidden(network, one, padded=padded) for one in torch.split(images, 1)]
        return torch.cat(each)

    return mock.patch.object(PatchDescriptionNetwork, "hidden", apart)


def _with_the_teacher_anew() -> AbstractContextManager[object]:
    computed = KeptDescriptors._computed  # noqa: SLF001 - what it does without a kept one
    return mock.patch.object(KeptDescriptors, "of", computed)


def ways(size: ModelSize) -> dict[str, tuple[Step, int]]:
    """Each step with the images it learns from; the reference first."""
    quick = QUICK.quick
    assert isinstance(quick, QuickRecipe)
    natural = open_pretraining_images(None)
    whole = replace(QUICK, quick=replace(quick, window_cells=GRID_CELLS))
    adam = replace(QUICK, optimizer="adamw")
    n = QUICK.batch_size
    plain = _without_fast_convolutions
    return {
        REFERENCE: (reference_step(size), 1),
        "paper": (PackageStep(size, PAPER, natural), 1),
        "paper, plain convolutions": (PackageStep(size, PAPER, natural, plain), 1),
        **{
            f"paper, {words}": (PackageStep(size, PAPER, natural, switched), 1)
            for words, switched in (
                ("small tiles", _with_small_tiles),
                ("ReLU and pooling apart", _with_relu_and_pooling_apart),
                ("image by image", _image_by_image),
            )
        },
        "quick": (PackageStep(size, QUICK, natural), n),
        "quick, plain convolutions": (PackageStep(size, QUICK, natural, plain), n),
        "quick, teacher anew": (
            PackageStep(size, QUICK, natural, _with_the_teacher_anew),
            n,
        ),
        "quick, image by image": (
            PackageStep(size, QUICK, natural, _image_by_image),
            n,
        ),
        "quick, whole images": (PackageStep(size, whole, natural), n),
        "quick, without penalty": (PackageStep(size, QUICK, None), n),
        "quick, AdamW": (PackageStep(size, adam, natural), n),
    }


def measure(found: dict[str, tuple[Step, int]], repeats: int) -> dict[str, Timing]:
    """Milliseconds an image."""
    times = interleaved({name: step for name, (step, _) in found.items()}, repeats)
    return {
        name: Timing(tuple(ms / found[name][1] for ms in timing.milliseconds))
        for name, timing in times.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=get_args(ModelSize), default="small")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, help=f"for example {RESULTS}")
    asked = parser.parse_args(arguments)
    keep_freed_memory()
    times = measure(ways(asked.size), asked.repeats)
    for name, timing in times.items():
        speedup = times[REFERENCE].median / timing.median
        print(f"{name:28} {timing.median:8.1f} ms an image {speedup:6.2f}", flush=True)
        if asked.output is None:
            continue
        run = {
            "experiment": "training_speed",
            "category": asked.size,
            "variant": name,
            "seed": 0,
            "settings": {"size": asked.size, "repeats": asked.repeats},
            "metrics": {"milliseconds": timing.median, "speedup": speedup},
            "latency": timing.summary(),
        }
        write_run(run, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
