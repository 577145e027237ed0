"""Predictions of several images at the same time, in their order."""

import threading
from io import BytesIO
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from tests.image_files import encoded

import efficientad
from efficientad.decisions.decision import Calibration
from efficientad.engines.engine import EngineOutput, Precision
from efficientad.errors import ConfigError, ImageError
from efficientad.inspection.prediction import Prediction
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.streams import predictions
from efficientad.method.maps import MapScale

PATIENCE = 30  # seconds until a thread that waits for another one gives up


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
    given = [photograph(40, 50, seed) for seed in range(2)]
    for path in exports.values():
        predictor = efficientad.load(path, n_streams=2)
        alone = [predictor.predict(image).image_score for image in given]
        found = predictions(predictor, given, n_streams=2)
        assert [p.image_score for p in found] == pytest.approx(alone, rel=1e-4)


def test_a_bad_file_leaves_the_open_files_beside_it():
    good = encoded(Image.fromarray(numbered_image(1)), "PNG")
    given = [BytesIO(content) for content in (good, good, b"xx", good)]

    found = predictions(flat_predictor(), given, batch_size=4, gives_errors=True)

    assert [isinstance(each, ImageError) for each in found] == [0, 0, 1, 0]
