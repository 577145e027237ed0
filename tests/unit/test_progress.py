"""Progress in logs and on a terminal, with a clock that the test sets."""

import io
import logging
import sys

import pytest

from efficientad import progress
from efficientad.cli.process import logging_to_stderr
from efficientad.progress import Progress, tracked


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self):
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    turned = Clock()
    monkeypatch.setattr(progress, "time", turned)
    return turned


def messages(caplog):
    found = list(caplog.messages)
    caplog.clear()
    return found


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO, "efficientad")


def test_rate_and_remaining_time_are_there_after_a_second(clock, caplog):
    shown = Progress(1200, "image", task="training")
    for step in range(1, 4):
        clock.seconds += 0.5
        shown.update(2 * step, loss=18.234)

    assert messages(caplog) == [
        "training: image 4 of 1200, loss 18.23, 4.00 images/s, 5.0 min left"
    ]


def test_lines_come_early_and_then_every_15_seconds(clock, caplog):
    shown = Progress(1000, "step")
    moments = []
    for second in range(1, 100):
        clock.seconds += 1
        shown.update(second, loss=0.5)
        if messages(caplog):
            moments.append(second)

    assert moments == [1, 3, 7, 15, 30, 45, 60, 75, 90]


def test_the_rate_leaves_out_the_first_step_and_an_earlier_run(clock, caplog):
    shown = Progress(1000, "step", n_done=500)
    clock.seconds += 60
    shown.update(501, loss=1.0)
    assert messages(caplog) == ["step 501 of 1000, loss 1"]
    clock.seconds += 10
    shown.update(511, loss=1.0)

    assert "1.00 steps/s, 8.2 min left" in messages(caplog)[0]


def test_the_end_is_logged_with_its_values(clock, caplog):
    shown = Progress(2, "image")
    shown.update(1, loss=2.0)
    clock.seconds += 0.5
    shown.update(2, loss=1.0)

    assert "image 2 of 2, loss 1, 2.00 images/s" in messages(caplog)[-1]


def test_a_run_that_is_over_at_once_logs_nothing(clock, caplog):
    quick, slow = (Progress(2, "image", task="reading") for _ in range(2))
    quick.update(1)
    quick.update(2)
    assert not messages(caplog)
    clock.seconds += 5
    slow.update(1)
    slow.update(2)

    lines = messages(caplog)
    assert [line.partition(",")[0] for line in lines] == [
        "reading: image 1 of 2",
        "reading: image 2 of 2",
    ]


def test_a_terminal_shows_a_bar_from_where_an_earlier_run_ended(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    shown = Progress(1200, "image", n_done=600, task="training")
    started = terminal.getvalue()
    shown.update(602, loss=0.25)
    with logging_to_stderr():
        logging.getLogger("efficientad.test").info("a note")
    shown.close()

    assert "training:  50%" in started
    assert "loss=0.25" in terminal.getvalue()
    assert "a note\n" in terminal.getvalue()


def test_a_task_cannot_move_the_cursor(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    Progress(2, "image", task="a\x1b[2Jb").close()

    assert "a\\x1b[2Jb:" in terminal.getvalue()


def test_items_that_take_long_are_counted(clock, caplog):
    taken = []
    for item in tracked("abcd", 4, "predicting"):
        clock.seconds += 1
        taken.append(item)

    assert taken == list("abcd")
    assert messages(caplog) == [
        "predicting: image 1 of 4",
        "predicting: image 3 of 4, 1.00 images/s, 0.0 min left",
        "predicting: image 4 of 4, 1.00 images/s, 0.0 min left",
    ]
