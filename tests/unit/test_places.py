from dataclasses import replace

import numpy as np
import pytest

from efficientad.errors import ConfigError
from efficientad.images.encoding import png_text
from efficientad.method.maps import MapScale, normalize_map
from efficientad.method.places import levels_of_places, place_levels


@pytest.fixture
def maps():
    """Maps of 112 x 224 cells that are four times as high in their right half."""
    rng = np.random.default_rng(0)
    maps = rng.uniform(0.5, 1.5, (20, 112, 224)).astype(np.float32)
    maps[:, :, 112:] *= 4
    return maps


def test_levels_are_the_means_of_places_relative_to_all(maps):
    levels = levels_of_places(place_levels(maps), 112, 224)

    assert levels.shape == (112, 224)
    np.testing.assert_allclose(levels[:, :100], 0.4, rtol=0.1)
    np.testing.assert_allclose(levels[:, 124:], 1.6, rtol=0.1)


def test_a_place_that_is_never_high_is_raised_sixteen_times_at_most(maps):
    maps[:, :, :112] = 0

    levels = levels_of_places(place_levels(maps), 112, 224)

    np.testing.assert_allclose(levels[:, :100], 1 / 16)


def test_a_defect_between_high_places_exceeds_them_after_division(maps):
    scale = MapScale(0.0, 1.0)
    image = maps[:1].copy()
    image[0, 50, 20] = 4

    plain = normalize_map(image, scale)[0]
    divided = normalize_map(image, replace(scale, places=place_levels(maps)))[0]

    assert np.unravel_index(plain.argmax(), plain.shape) != (50, 20)
    assert np.unravel_index(divided.argmax(), divided.shape) == (50, 20)


@pytest.mark.parametrize(
    "text", ["", "no picture", png_text(np.zeros((9, 56), np.uint8))]
)
def test_a_text_that_is_no_levels_is_refused(text):
    with pytest.raises(ConfigError, match="levels of places"):
        MapScale(0.0, 1.0, places=text)
