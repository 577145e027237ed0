import numpy as np
import pytest

from efficientad.evaluation.shifts import shifts
from efficientad.images.appearance import appearance, appearances, redness


def sample(mean, n=30, seed=0):
    return np.random.default_rng(seed).normal(mean, 1, n).tolist()


def test_samples_of_one_kind_differ_in_one_of_a_hundred_pairs():
    found = [
        bool(
            shifts(
                {"brightness": sample(5, seed=i)},
                {"brightness": sample(5, seed=-i % 997 + 2000)},
            )
        )
        for i in range(200)
    ]

    assert sum(found) <= 6


@pytest.mark.parametrize(("mean", "word"), [(3, "darker"), (7, "brighter")])
def test_a_shift_is_told_in_words(mean, word):
    (shift,) = shifts({"brightness": sample(mean)}, {"brightness": sample(5)})

    assert f"good test images are {word} than held-out normal images" in str(shift)
    assert shift.p_value < 1e-4


def test_quantities_that_the_model_does_not_hold_are_left_out():
    assert shifts({"brightness": sample(9), "contrast": sample(1)}, {}) == ()


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(60, 120, (40, 30, 3)).astype(np.uint8)


def test_brightness_contrast_and_sharpness_are_independent(picture):
    plain = appearance(picture)
    brighter = appearance(picture + np.uint8(50))
    doubled = appearance(2 * picture)
    blurred = appearance((picture[1:] // 2 + picture[:-1] // 2).repeat(1, axis=0))

    assert brighter["brightness"] == pytest.approx(plain["brightness"] + 50)
    assert brighter["contrast"] == pytest.approx(plain["contrast"], rel=1e-4)
    assert doubled["contrast"] == pytest.approx(2 * plain["contrast"], rel=1e-4)
    assert doubled["sharpness"] == pytest.approx(plain["sharpness"], rel=1e-4)
    assert blurred["sharpness"] < plain["sharpness"]


def test_a_picture_of_one_value_has_neither_contrast_nor_sharpness():
    found = appearances(np.full((2, 8, 8, 3), 9, np.uint8))

    assert found == {
        "brightness": [9.0] * 2,
        "contrast": [0.0] * 2,
        "sharpness": [0.0] * 2,
        "redness": [0.0] * 2,
    }


def test_redness_is_red_minus_blue():
    orange = np.full((8, 8, 3), (200, 120, 40), np.uint8)

    assert redness(orange) == 160
    assert redness(orange[..., ::-1]) == -160
