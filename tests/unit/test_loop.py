from contextlib import contextmanager

import pytest

from efficientad.errors import TrainingError
from efficientad.training.loop import immediate_interrupts, take_steps

N_STEPS = 4


class Counting:
    """A training whose losses are given."""

    def __init__(self, losses):
        self.losses = losses
        self.n_steps_done, self.seconds = 0, 0.0

    @property
    def progress(self):
        return self.n_steps_done / N_STEPS

    def take_step(self):
        self.n_steps_done += 1
        return self.losses[self.n_steps_done - 1]


def taken(run, interrupts=immediate_interrupts):
    """Take the steps, and return what was called after each."""
    calls: list[object] = []

    def after_step(loss, must_save):
        calls.append((run.n_steps_done, loss, must_save))

    try:
        take_steps(run, (N_STEPS, "step"), after_step, interrupts, lambda: "wait")
    except KeyboardInterrupt:
        calls.append("interrupted")
    return calls


def test_only_the_last_step_must_be_saved():
    calls = taken(Counting([4.0, 3.0, 2.0, 1.0]))

    assert calls == [(1, 4, False), (2, 3, False), (3, 2, False), (4, 1, True)]


def test_a_resumed_run_takes_the_remaining_steps_and_adds_the_time():
    run = Counting([4.0, 3.0, 2.0, 1.0])
    run.n_steps_done, run.seconds = 3, 100.0

    assert taken(run) == [(4, 1, True)]
    assert run.seconds > 100


def test_an_interrupt_saves_and_ends_the_run():
    run = Counting([4.0, 3.0, 2.0, 1.0])

    @contextmanager
    def interrupts():
        yield lambda: run.n_steps_done == 2

    assert taken(run, interrupts) == [(1, 4, False), (2, 3, True), "interrupted"]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(loss):
    run = Counting([4.0, loss])

    with pytest.raises(TrainingError, match="loss is not finite at step 2; wait"):
        taken(run)
