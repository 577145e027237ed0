"""The loop of every training: steps, progress, checkpoints and interrupts."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from efficientad.errors import ModelFileError, TrainingError
from efficientad.model_files import container as tensor_file
from efficientad.model_files.tensors import as_arrays, as_tensors
from efficientad.training.progress import Progress

Interrupts = Callable[[], AbstractContextManager[Callable[[], bool]]]
"""Context manager whose value is a function: whether the run is to be interrupted."""


@contextmanager
def immediate_interrupts() -> Iterator[Callable[[], bool]]:
    """Leave interrupts as they are: a KeyboardInterrupt at once."""
    yield lambda: False


@runtime_checkable
class Run(Protocol):
    """A training that can be stopped and resumed."""

    n_steps_done: int
    seconds: float
    """Time of all steps, those of earlier runs included."""

    @property
    def progress(self) -> float:
        """Share of the training that is done; from 1 on it is finished."""
        ...

    def take_step(self) -> float:
        """Take one optimizer step and return the loss."""
        ...


def take_steps(
    run: Run,
    count: tuple[int, str],
    after_step: Callable[[float, bool], None],
    interrupts: Interrupts,
    remedy: Callable[[], str],
) -> None:
    """Take all remaining steps.

    Args:
        run: Training to finish.
        count: Number and unit for the display of progress, such as 70 000 and "step".
        after_step: Function that is called after each step with the loss, and whether
            it must write a checkpoint: this is the last step, or an interrupt came.
        interrupts: Context manager around the steps. When the function it returns is
            true after a step, KeyboardInterrupt is raised.
        remedy: Function that returns what to do about a loss that is not finite.

    Raises:
        TrainingError: If the loss is not finite.
    """
    total, unit = count
    n_done = round(run.progress * total)
    started = time.monotonic() - run.seconds
    with (
        interrupts() as was_interrupted,
        closing(Progress(total, unit, n_done=n_done, task="training")) as progress,
    ):
        while run.progress < 1:
            loss = run.take_step()
            run.seconds = time.monotonic() - started
            require_finite(loss, run.n_steps_done, remedy)
            progress.update(min(total, round(run.progress * total)), loss=loss)
            is_interrupted = was_interrupted()
            after_step(loss, is_interrupted or run.progress >= 1)
            if is_interrupted:
                raise KeyboardInterrupt


def require_finite(value: float, n_steps: int, remedy: Callable[[], str]) -> None:
    """Refuse a loss or measurement that is not finite.

    Raises:
        TrainingError: If it is not.
    """
    if not math.isfinite(value):
        raise TrainingError(f"the loss is not finite at step {n_steps}; {remedy()}")


def save_checkpoint(
    path: Path,
    states: Mapping[str, Mapping[str, Tensor]],
    optimizer: Optimizer,
    content: Mapping[str, Any],
) -> None:
    """Write the tensors of each part, the optimizer's and a JSON object to a file.

    Raises:
        StorageError: If it cannot be written.
    """
    values = optimizer.state_dict()["state"]
    parts = {**states, **{f"optimizer.{index}": values[index] for index in values}}
    tensors = {
        f"{part}.{name}": torch.as_tensor(value)
        for part, state in parts.items()
        for name, value in state.items()
    }
    tensor_file.write(path, "checkpoint", as_arrays(tensors), content)


def open_checkpoint(
    path: Path, identity: Mapping[str, Any], optimizer: Optimizer
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return tensors of each part and content of a checkpoint; restore the optimizer.

    Raises:
        ModelFileError: If it is unusable, or its content is not that of `identity`.
    """
    arrays, content = tensor_file.read(path, "checkpoint")
    expected = json.loads(json.dumps(identity))
    if any(content.get(name) != value for name, value in expected.items()):
        raise ModelFileError(
            f"{path} is a checkpoint of other settings, networks or images; use those "
            "it was made with, or remove it to start anew"
        )
    states = _by_part(as_tensors(arrays))
    values = _by_part(states.pop("optimizer", {}))
    state = {int(index): values[index] for index in values}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, own in optimizer.state.items():
        for name, value in own.items():
            # A fused step on CUDA takes no other layout than that of the parameter.
            if value.shape == parameter.shape:
                laid_out = torch.empty_like(parameter, dtype=value.dtype)
                own[name] = laid_out.detach().copy_(value)
    return states, content


def _by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return parts
