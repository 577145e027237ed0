"""The loop of every training: steps, progress and interrupts."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Protocol, runtime_checkable

from efficientad.errors import TrainingError
from efficientad.progress import Progress

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
    """Raise `TrainingError` if a loss or measurement is not finite."""
    if not math.isfinite(value):
        raise TrainingError(f"the loss is not finite at step {n_steps}; {remedy()}")
