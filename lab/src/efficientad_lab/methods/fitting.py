"""Fitting of any method: its trainings within a budget of time, resumable.

Every draw follows from the seed, the training and the step. A training ends after its
prescribed epochs or when its share of the time is over, whichever comes first. The last
step counts: nothing is chosen by test images.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from efficientad.errors import ModelFileError, TrainingError
from efficientad.model_files import container
from efficientad.model_files.tensors import as_tensors
from efficientad.training.checkpoint import (
    open_checkpoint,
    save_checkpoint,
    whole_checkpoint,
)
from efficientad_lab.methods.method import BACKBONES, Draw, Method, NormalPixels, Phase

_SECONDS_BETWEEN_CHECKPOINTS: Final = 120.0
_STATE: Final = "method"


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a method is fitted."""

    seed: int = 0
    minutes: float | None = None
    """Budget of processor time for each thread, which is wall time where nothing else
    runs. None: the prescribed epochs, however long they take."""
    checkpoint: Path | None = None
    """File to resume from, written every two minutes. None: no file."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Data and settings that a checkpoint must have been made with."""


@dataclass(kw_only=True)
class TrainedPhase:
    """Steps and loss of one training."""

    name: str
    n_images: int
    batch_size: int
    epochs_prescribed: float
    steps: int = 0
    loss: float | None = None
    """Mean loss of the last steps."""

    @property
    def epochs(self) -> float:
        """Passes over the images that were done."""
        return self.steps * self.batch_size / self.n_images

    def summary(self) -> dict[str, Any]:
        """Return the fields of a recorded run."""
        return {
            "name": self.name,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "epochs": round(self.epochs, 2),
            "epochs_prescribed": self.epochs_prescribed,
            "loss": self.loss,
        }


@dataclass(kw_only=True)
class Fitted:
    """Costs of a fit, those of interrupted processes included."""

    phases: list[TrainedPhase]
    seconds: float
    """Wall time."""
    processor_seconds: float
    """Processor time for each thread."""


def fit(method: Method, pixels: NormalPixels, config: FitConfig) -> Fitted:
    """Fit a method to normal images, in place.

    Args:
        method: New method.
        pixels: Training images, (n, 256, 256, 3).
        config: Seed, budget and checkpoint.

    Raises:
        TrainingError: If a loss is not finite, or the memory does not suffice.
        DatasetError: If there are too few images for the method.
        ModelFileError: If the checkpoint is of other data or settings.
    """
    clock = Clock()
    method.eval()
    method.prepare(pixels)
    path = config.checkpoint
    stored = _opened(path, method) if path is not None and path.exists() else None
    done: list[TrainedPhase] = []
    if stored is not None:
        clock.add(stored["seconds"])
    limit = math.inf if config.minutes is None else 60 * config.minutes
    share = 0.0
    for index, phase in enumerate(method.phases(pixels)):
        share += phase.share
        run = _Run(method, phase, config.seed + 1000 * index, index, clock)
        if stored is not None and index <= stored["phase"]:
            run.take_over(stored["trained"][index])
            if index == stored["phase"]:
                assert path is not None
                run.begun = stored["begun"]
                open_checkpoint(path, config.identity, phase.optimizer)
        run.train(share * limit, path, config.identity, done)
        done.append(run.done)
    method.eval()
    wall, processor = clock.seconds()
    return Fitted(phases=done, seconds=wall, processor_seconds=processor)


class Clock:
    """Wall time and processor time for each thread, seconds, since it was made."""

    def __init__(self) -> None:
        self._earlier = (0.0, 0.0)
        self._begun = self._now()

    def add(self, seconds: tuple[float, float]) -> None:
        """Add the times of an earlier process."""
        self._earlier = seconds

    def seconds(self) -> tuple[float, float]:
        """Return wall time and processor time."""
        pairs = zip(self._now(), self._begun, self._earlier, strict=True)
        wall, processor = (now - begun + earlier for now, begun, earlier in pairs)
        return wall, processor

    def _now(self) -> tuple[float, float]:
        return time.monotonic(), time.process_time() / torch.get_num_threads()


class _Run:
    """One training of a method."""

    def __init__(
        self, method: Method, phase: Phase, seed: int, index: int, clock: Clock
    ) -> None:
        self.method, self.phase, self.seed, self.index = method, phase, seed, index
        self.clock = clock
        n = len(phase.inputs)
        self.batch_size = min(phase.batch_size, n)
        self.n_steps = max(1, round(phase.n_epochs * n / self.batch_size))
        self.done = TrainedPhase(
            name=phase.name,
            n_images=n,
            batch_size=self.batch_size,
            epochs_prescribed=phase.n_epochs,
        )
        self.begun = clock.seconds()[1]
        """Processor seconds of the fit at which this training began."""
        self.written = time.monotonic()
        self.losses: list[float] = []
        self.is_over = False
        self.rates = [group["lr"] for group in phase.optimizer.param_groups]
        _begin(phase.optimizer)

    def take_over(self, trained: tuple[int, float | None, bool]) -> None:
        """Go on after steps of an earlier process."""
        self.done.steps, self.done.loss, self.is_over = trained

    def train(
        self,
        limit: float,
        path: Path | None,
        identity: Mapping[str, Any],
        earlier: list[TrainedPhase],
    ) -> None:
        """Take steps until the prescribed ones are done or the time is over."""
        while not self.is_over and self.done.steps < self.n_steps:
            _, seconds = self.clock.seconds()
            if seconds >= limit and self.done.steps > 0:
                break
            of_time = (seconds - self.begun) / max(limit - self.begun, 1.0)
            progress = min(1.0, max(of_time, self.done.steps / self.n_steps))
            self._step(progress)
            is_due = time.monotonic() - self.written > _SECONDS_BETWEEN_CHECKPOINTS
            if path is not None and is_due:
                self._write(path, identity, earlier, is_over=False)
        if path is not None and not self.is_over:
            self._write(path, identity, earlier, is_over=True)

    def _step(self, progress: float) -> None:
        generator = torch.Generator().manual_seed(
            (self.seed * 1_000_003 + self.done.steps) % 2**63
        )
        factor = 0.1 if progress > self.phase.late else 1.0
        groups = self.phase.optimizer.param_groups
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = factor * rate
        self.method.train()
        self.phase.optimizer.zero_grad(set_to_none=True)
        batch = self.phase.inputs[self._indices(self.done.steps)]
        loss = self.phase.loss(batch, Draw(generator, progress))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of {self.phase.name} is not finite at step "
                f"{self.done.steps + 1}; use another seed, or look at the images"
            )
        torch.autograd.backward(loss)
        self.phase.optimizer.step()
        self.done.steps += 1
        self.losses = [*self.losses[-19:], value]
        self.done.loss = sum(self.losses) / len(self.losses)

    def _indices(self, step: int) -> Tensor:
        """Return the images of a step: each epoch has its own order."""
        n = len(self.phase.inputs)
        places = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        orders = {
            epoch: torch.randperm(
                n, generator=torch.Generator().manual_seed(self.seed + 7919 * epoch)
            )
            for epoch in {int(place) // n for place in places}
        }
        chosen = [int(orders[int(place) // n][int(place) % n]) for place in places]
        return torch.tensor(chosen)

    def _write(
        self,
        path: Path,
        identity: Mapping[str, Any],
        earlier: list[TrainedPhase],
        *,
        is_over: bool,
    ) -> None:
        over = [(p.steps, p.loss, True) for p in earlier]
        content = {
            **identity,
            "phase": self.index,
            "begun": self.begun,
            "trained": [*over, (self.done.steps, self.done.loss, is_over)],
            "seconds": list(self.clock.seconds()),
        }
        state = {_STATE: self.method.fitted_state()}
        save_checkpoint(path, state, self.phase.optimizer, content)
        self.written = time.monotonic()


def _begin(optimizer: torch.optim.Adam) -> None:
    """Set the state that all weights have before their first gradient.

    A checkpoint has the state of each, also of those that get gradients later.
    """
    for group in optimizer.param_groups:
        for weights in group["params"]:
            optimizer.state[weights] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(weights),
                "exp_avg_sq": torch.zeros_like(weights),
            }


def _opened(path: Path, method: Method) -> dict[str, Any]:
    """Load the method's tensors of a checkpoint, and return its progress."""
    arrays, content = container.read(path, "checkpoint")
    prefix = f"{_STATE}."
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in as_tensors(arrays).items()
        if name.startswith(prefix)
    }
    with whole_checkpoint(path):
        phase = int(content["phase"])
        wall, processor = (float(value) for value in content["seconds"])
        begun = float(content["begun"])
        trained = [
            (int(n), None if loss is None else float(loss), bool(is_over))
            for n, loss, is_over in content["trained"]
        ]
        if len(trained) != phase + 1 or not math.isfinite(wall + processor + begun):
            raise ValueError("trained")
    load_fitted(method, state, path)
    seconds = wall, processor
    return {"phase": phase, "seconds": seconds, "begun": begun, "trained": trained}


def load_fitted(method: Method, state: Mapping[str, Tensor], path: Path) -> None:
    """Load the tensors of a fitted method.

    Raises:
        ModelFileError: If they are those of another method or of other settings.
    """
    backbones = {
        name: tensor
        for name, tensor in method.state_dict().items()
        if BACKBONES in name
    }
    try:
        method.load_state_dict({**backbones, **state})
    except RuntimeError as error:
        raise ModelFileError(
            f"{path} does not hold the tensors of {method.title()}; fit it again"
        ) from error
