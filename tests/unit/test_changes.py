import numpy as np
import pytest

from efficientad.images.changes import CHANGES, changed


@pytest.fixture(scope="module")
def picture(photograph):
    return photograph(64, 96)


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("strength", [-1.0, -0.5, 0.5, 1.0])
def test_a_change_keeps_the_size_and_changes_the_picture(picture, kind, strength):
    found = changed(picture, kind, strength, seed=0)

    assert found.shape == picture.shape
    assert found.dtype == np.uint8
    assert not np.array_equal(found, picture)
    np.testing.assert_array_equal(found, changed(picture, kind, strength, seed=0))


@pytest.mark.parametrize("kind", [k for k in CHANGES if k != "JPEG compression"])
def test_no_strength_is_no_change(picture, kind):
    assert np.array_equal(changed(picture, kind, 0.0, seed=0), picture)


def test_a_brighter_picture_is_brighter_by_15_percent():
    gray = np.full((8, 8, 3), 100, np.uint8)

    assert changed(gray, "brightness", 1.0, seed=0).mean() == 115
    assert changed(gray, "brightness", -1.0, seed=0).mean() == 85


def test_a_shift_moves_the_content_by_up_to_8_pixels():
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[32, 32] = 255
    for strength, distance in ((1.0, 8), (0.5, 4)):
        moved = changed(dot, "shift", strength, seed=1)
        (row, column, _) = np.argwhere(moved)[0]
        assert abs(row - 32) == abs(column - 32) == distance
