"""Several streams: the order stays, the queue is bounded, all of them work."""

import threading
from typing import Literal

import numpy as np
import pytest

import efficientad
from efficientad.engines.engine import EngineOutput, Precision
from efficientad.errors import ConfigError, ImageError
from efficientad.inspection import streams
from efficientad.inspection.prediction import Prediction
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.streams import in_order, predictions
from efficientad.method.decision import Calibration
from efficientad.method.maps import MapScale

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
    monkeypatch.setattr(streams, "_SECONDS_TO_END", 0.01)
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


class Flat:
    """An engine whose maps are zero, and that notes the sizes of its batches."""

    precision: Precision = "fp32"
    device: Literal["cpu"] = "cpu"

    def __init__(self, *, is_concurrent):
        self.is_concurrent = is_concurrent
        self.batches = []

    def run(self, pixels):
        self.batches.append(len(pixels))
        grids = np.zeros((len(pixels), 56, 56), np.float32)
        return EngineOutput({"local": grids, "global": grids})


def flat_predictor(*, is_concurrent=True):
    scales = dict.fromkeys(("local", "global"), MapScale(0.0, 0.1))
    return Predictor(
        engine=Flat(is_concurrent=is_concurrent),
        calibration=Calibration(scales, (0.1,)),
        provenance={},
        size="small",
    )


def numbered_image(number):
    return np.zeros((8, 8 + number, 3), np.uint8)


def numbers(predicted):
    """Tell by its width which image each prediction is of; errors stay."""
    for found in predicted:
        yield found.width - 8 if isinstance(found, Prediction) else found


def images(n):
    return (numbered_image(number) for number in range(1, n + 1))


@pytest.mark.parametrize("n_streams", [1, 3])
def test_images_are_predicted_in_batches_and_in_order(n_streams):
    predictor = flat_predictor()

    found = predictions(predictor, images(7), n_streams=n_streams, batch_size=3)

    assert list(numbers(found)) == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(predictor.engine.batches) == [1, 3, 3]


class Line:
    """A camera that takes the next image when the last one has been decided."""

    def __init__(self, n, patience=PATIENCE):
        self.n, self.patience = n, patience
        self.decided = threading.Event()

    def __iter__(self):
        for number in range(self.n):
            assert number == 0 or self.decided.wait(self.patience), "no decision came"
            self.decided.clear()
            yield numbered_image(1 + number)

    def answers(self, **settings):
        for prediction in predictions(flat_predictor(), self, **settings):
            yield prediction.width - 8
            self.decided.set()


@pytest.mark.parametrize("n_waiting", [0, None])
@pytest.mark.parametrize("n_streams", [1, 4])
def test_a_camera_may_wait_for_the_decision(n_streams, n_waiting):
    answers = Line(5).answers(n_streams=n_streams, n_waiting=n_waiting)

    assert list(answers) == [1, 2, 3, 4, 5]


def test_a_camera_that_waits_for_ever_is_noticed():
    """The positive control: no batch of two gets full."""
    answers = Line(5, patience=0.01).answers(batch_size=2)

    assert next(answers) == 1
    with pytest.raises(AssertionError, match="no decision came"):
        next(answers)


def test_images_of_a_batch_that_does_not_get_full_are_predicted_before_the_error():
    def source():
        yield from images(3)
        raise OSError("the camera is gone")

    found = numbers(predictions(flat_predictor(), source(), batch_size=2))

    assert [next(found) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(OSError, match="the camera is gone"):
        next(found)


def with_a_bad_one():
    yield from images(4)
    yield "nowhere.png"
    yield from images(4)


@pytest.mark.parametrize("settings", [{"batch_size": 3}, {"n_streams": 2}])
def test_an_image_at_fault_is_given_in_its_place(settings):
    predictor = flat_predictor()

    predicted = predictions(predictor, with_a_bad_one(), gives_errors=True, **settings)

    found = list(numbers(predicted))
    assert [*found[:4], *found[5:]] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert isinstance(found[4], ImageError)


def test_all_images_before_one_at_fault_are_given_before_it_is_raised():
    predictor = flat_predictor()
    found = numbers(predictions(predictor, with_a_bad_one(), batch_size=8))

    assert [next(found) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(ImageError):
        next(found)


def test_predictions_may_be_closed_early():
    before = set(threading.enumerate())
    found = predictions(flat_predictor(), images(100), n_streams=4)
    assert next(numbers(found)) == 1

    found.close()

    assert set(threading.enumerate()) <= before


def test_a_predictor_of_one_call_at_a_time_gets_one_stream():
    predictor = flat_predictor(is_concurrent=False)

    assert list(numbers(predictions(predictor, images(2)))) == [1, 2]
    with pytest.raises(ConfigError, match="use 1 stream, or another engine"):
        predictions(predictor, images(2), n_streams=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_streams": 0}, "n_streams must be a whole number from 1 to 1024, got 0"),
        ({"n_waiting": -1}, "n_waiting must be a whole number from 0 to 10000"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
    ],
)
def test_senseless_numbers_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        predictions(flat_predictor(), images(2), **settings)


def test_an_export_predicts_alike_in_one_stream_and_in_two(exports, photograph):
    given = [photograph(40, 50, seed) for seed in range(4)]
    for path in exports.values():
        predictor = efficientad.load(path, n_streams=2)
        alone = [predictor.predict(image).image_score for image in given]
        found = predictions(predictor, given, n_streams=2)
        assert [p.image_score for p in found] == pytest.approx(alone, rel=1e-4)
