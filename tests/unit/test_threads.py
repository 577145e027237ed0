"""The order stays, the queue is bounded, and all threads work."""

import threading

import pytest

from efficientad import threads
from efficientad.errors import ImageError
from efficientad.threads import in_order

PATIENCE = 30  # seconds until a thread that waits for another one gives up


def test_later_pieces_that_are_done_first_come_out_later():
    """The first piece waits for the second, so it is done after it."""
    second_is_done = threading.Event()

    def work(piece):
        if piece == 0:
            assert second_is_done.wait(PATIENCE)
        if piece == 1:
            second_is_done.set()
        return piece

    assert list(in_order(work, range(5), n_streams=2)) == [0, 1, 2, 3, 4]


def test_all_streams_work_at_the_same_time():
    """Three pieces meet: with fewer threads none would pass the barrier."""
    meeting = threading.Barrier(3)

    def work(piece):
        meeting.wait(PATIENCE)
        return piece

    assert list(in_order(work, range(6), n_streams=3)) == list(range(6))


def test_one_stream_does_one_piece_at_a_time():
    """The positive control: the same meeting fails."""
    meeting = threading.Barrier(2)

    def work(piece):
        meeting.wait(0.05)
        return piece

    with pytest.raises(threading.BrokenBarrierError):
        list(in_order(work, range(2), n_streams=1))


def test_no_more_is_taken_than_there_are_places():
    taken = []

    def source():
        for piece in range(100):
            taken.append(piece)
            yield piece

    found = in_order(lambda piece: piece, source(), n_streams=2, n_waiting=3)

    assert taken == []
    assert [next(found) for _ in range(4)] == [0, 1, 2, 3]
    assert len(taken) <= 4 + 2 + 3
    found.close()


def test_what_came_before_an_error_is_given():
    def work(piece):
        if piece == 2:
            raise ImageError("an image was needed")
        return piece

    found = in_order(work, range(5), n_streams=2)

    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ImageError):
        next(found)


def test_what_came_before_an_error_of_the_source_is_given():
    def source():
        yield from range(3)
        raise OSError("the camera is gone")

    found = in_order(lambda piece: piece, source(), n_streams=4)

    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the camera is gone"):
        next(found)


def test_a_source_that_cannot_begin_is_an_error_not_a_wait():
    class Unplugged:
        def __iter__(self):
            raise OSError("no camera")

    with pytest.raises(OSError, match="no camera"):
        next(in_order(lambda piece: piece, Unplugged(), n_streams=1))


def test_with_one_place_a_piece_is_taken_when_the_next_result_is_asked_for():
    taken = []

    def source():
        for piece in range(3):
            taken.append(piece)
            yield piece

    for piece in in_order(lambda piece: piece, source(), n_streams=1, n_waiting=0):
        assert taken == list(range(piece + 1))
    assert taken == [0, 1, 2]


def test_closing_early_ends_all_threads():
    before = set(threading.enumerate())
    found = in_order(lambda piece: piece, range(100), n_streams=3)
    assert next(found) == 0
    assert len(set(threading.enumerate()) - before) > 1

    found.close()

    assert set(threading.enumerate()) <= before


def test_closing_does_not_wait_for_a_source_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(threads, "_SECONDS_TO_END", 0.01)
    answers = threading.Event()
    worked_on: list[int] = []
    before = set(threading.enumerate())

    def source():
        yield 0
        answers.wait(PATIENCE)
        yield 1

    found = in_order(worked_on.append, source(), n_streams=2)
    next(found)
    found.close()

    (feeder,) = set(threading.enumerate()) - before
    assert feeder.daemon
    answers.set()
    feeder.join(PATIENCE)
    assert not feeder.is_alive()
    assert worked_on == [0]
