import signal
import threading

import pytest

from efficientad.cli.process import held_back_interrupt


def interrupt_twice(seen):
    with held_back_interrupt() as was_interrupted:
        for _ in range(2):
            seen.append(was_interrupted())
            signal.raise_signal(signal.SIGINT)


def test_the_first_interrupt_is_noted_and_the_second_one_counts():
    seen: list[bool] = []

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice(seen)
    assert seen == [False, True]


def test_afterwards_an_interrupt_counts_as_before():
    before = signal.getsignal(signal.SIGINT)

    with held_back_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before

    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    with held_back_interrupt() as was_interrupted:
        signal.raise_signal(signal.SIGINT)
        assert not was_interrupted()

    signal.signal(signal.SIGINT, before)


def test_another_thread_changes_nothing():
    seen = []

    def body():
        with held_back_interrupt() as was_interrupted:
            seen.append((was_interrupted(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()

    assert seen == [(False, signal.getsignal(signal.SIGINT))]
