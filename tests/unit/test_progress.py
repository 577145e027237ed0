"""Progress as a log sees it: with a clock that the test turns."""

import io
import sys

import pytest

from efficientad.training import progress
from efficientad.training.progress import Progress


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


def test_rate_and_remaining_time_are_there_after_a_second(clock, capsys):
    shown = Progress(1200, "image", task="training")
    for step in range(1, 4):
        clock.seconds += 0.5
        shown.update(2 * step, loss=18.234)

    assert capsys.readouterr().err.splitlines() == [
        "training: image 4 of 1200, loss 18.23, 4.00 images/s, 5.0 min left"
    ]


def test_lines_come_early_and_then_every_15_seconds(clock, capsys):
    shown = Progress(1000, "step")
    moments = []
    for second in range(1, 100):
        clock.seconds += 1
        shown.update(second, loss=0.5)
        if capsys.readouterr().err:
            moments.append(second)

    assert moments == [1, 3, 7, 15, 30, 45, 60, 75, 90]


def test_the_rate_leaves_out_the_first_step_and_an_earlier_sitting(clock, capsys):
    shown = Progress(1000, "step", n_done=500)
    clock.seconds += 60
    shown.update(501, loss=1.0)
    assert capsys.readouterr().err == "step 501 of 1000, loss 1\n"
    clock.seconds += 10
    shown.update(511, loss=1.0)

    assert "1.00 steps/s, 8.2 min left" in capsys.readouterr().err


def test_the_end_is_told_with_its_values(clock, capsys):
    shown = Progress(2, "image")
    shown.update(1, loss=2.0)
    clock.seconds += 0.5
    shown.update(2, loss=1.0)

    assert "image 2 of 2, loss 1, 2.00 images/s" in capsys.readouterr().err


def test_what_is_over_at_once_is_not_worth_a_line(clock, capsys):
    quick, slow = (Progress(2, "image", task="reading") for _ in range(2))
    quick.update(1)
    quick.update(2)
    assert not capsys.readouterr().err
    clock.seconds += 5
    slow.update(1)
    slow.update(2)

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "reading: image 1 of 2",
        "reading: image 2 of 2",
    ]


def test_a_terminal_shows_a_bar_from_where_an_earlier_sitting_ended(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    shown = Progress(1200, "image", n_done=600, task="training")
    started = terminal.getvalue()
    shown.update(602, loss=0.25)
    shown.note("a note")
    shown.close()

    assert "training:  50%" in started
    assert "loss=0.25" in terminal.getvalue()
    assert "a note\n" in terminal.getvalue()
