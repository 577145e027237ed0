"""Maps as pictures: the same color means the same anomaly everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from efficientad.images.heatmaps import (
    MASK_COLOR,
    THRESHOLD_COLOR,
    Tile,
    color_bar,
    color_scale,
    heatmap,
    outline,
    overlay,
    panel,
    resize_mask,
)

SHAPES = st.tuples(st.integers(8, 30), st.integers(8, 30))
VALUES = st.floats(-1, 100, width=32)
# Mostly around 0 and 0.1, and far above on a defect.
MAPS = arrays(np.float32, SHAPES, elements=VALUES, fill=VALUES)
MASKS = arrays(np.bool_, SHAPES, fill=st.booleans())


def lightness(colors):
    """CIE L* of sRGB colors, 0 to 100: what the eye takes for equal steps."""
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    is_dark = luminance <= (6 / 29) ** 3
    return np.where(is_dark, luminance * (29 / 3) ** 3, 116 * np.cbrt(luminance) - 16)


def flat_map(value, shape=(8, 8)):
    return np.full(shape, value, np.float32)


def gray_image(height, width, value=120):
    return np.full((height, width, 3), value, np.uint8)


def has_color(image, color):
    return bool((image == color).all(axis=2).any())


# Heatmaps


def test_a_higher_value_is_a_lighter_color():
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    steps = np.diff(lightness(heatmap(values, low=0, high=1))[0])

    assert (steps > 0).all()
    assert steps.max() < 0.7  # of 100 in 255 steps


def test_the_scale_goes_from_black_to_light_yellow_and_ends_there():
    values = np.array([[-np.float32(9), 0, 1, 9]], np.float32)
    colors = heatmap(values, low=0, high=1)[0].tolist()

    assert colors == [[0, 0, 4], [0, 0, 4], [252, 255, 164], [252, 255, 164]]


def test_the_scale_does_not_depend_on_the_map():
    """On its own minimum and maximum, every normal part would look anomalous."""
    alone = heatmap(flat_map(0.25), low=0, high=1)
    beside = flat_map(0.25)
    beside[0, 0] = 0.9

    np.testing.assert_array_equal(heatmap(beside, low=0, high=1)[4, 4], alone[4, 4])
    assert (heatmap(beside, low=0, high=1)[0, 0] != alone[0, 0]).any()


@given(MAPS)
def test_a_heatmap_orders_pixels_as_the_map_does(anomaly_map):
    seen = lightness(heatmap(anomaly_map, low=0, high=0.5)).ravel()
    order = np.argsort(anomaly_map, axis=None)

    assert (np.diff(seen[order]) >= 0).all()


@given(MAPS, st.floats(0.01, 50))
def test_scaling_map_and_scale_together_changes_nothing(anomaly_map, factor):
    factor = 2.0 ** round(np.log2(factor))  # exact in floating point

    np.testing.assert_array_equal(
        heatmap(anomaly_map * np.float32(factor), low=0, high=0.5 * factor),
        heatmap(anomaly_map, low=0, high=0.5),
    )


# Overlays


def test_a_normal_part_stays_as_it_is(rng):
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)

    covered = overlay(image, flat_map(-0.3, (20, 30)), low=0, high=0.5)

    np.testing.assert_array_equal(covered, image)
    assert not np.shares_memory(covered, image)


def test_opacity_rises_with_the_anomaly():
    """On white, where the colors are darker: the more of them, the darker."""
    white = gray_image(1, 200, 255)
    values = np.linspace(0, 0.7, 200, dtype=np.float32)[None]

    blue = overlay(white, values, low=0, high=1)[0, :, 2].astype(int)

    assert blue[0] == 255
    assert np.diff(blue).max() <= 1  # rounding
    assert blue[-1] < 160


def test_the_image_shows_through_the_highest_anomaly():
    dark, light = gray_image(8, 8, 0), gray_image(8, 8, 255)
    options = {"low": 0.0, "high": 1.0}

    difference = overlay(light, flat_map(5), **options).astype(int) - overlay(
        dark, flat_map(5), **options
    )

    np.testing.assert_allclose(difference, 0.25 * 255, atol=1.5)


def test_half_of_the_way_to_the_threshold_is_visible_on_dark_and_light_images():
    for value in (20, 235):
        image = gray_image(8, 8, value)
        covered = overlay(image, flat_map(0.25), low=0, high=1).astype(int)

        assert np.abs(covered - image).max() > 25


# Outlines


@given(MASKS)
def test_an_outline_is_on_the_border_of_the_mask_and_nowhere_else(mask):
    """The definition, pixel by pixel: beside the mask, or in it along the image's."""
    image = gray_image(*mask.shape)
    padded = np.pad(mask, 1)
    expected = np.zeros_like(mask)
    for row, column in np.ndindex(mask.shape):
        cross = (
            padded[row, column + 1],
            padded[row + 2, column + 1],
            padded[row + 1, column],
            padded[row + 1, column + 2],
        )
        is_at_border = row in {0, mask.shape[0] - 1} or column in {
            0,
            mask.shape[1] - 1,
        }
        expected[row, column] = is_at_border if mask[row, column] else any(cross)

    drawn = outline(image, mask)

    np.testing.assert_array_equal((drawn == MASK_COLOR).all(axis=2), expected)
    np.testing.assert_array_equal(drawn[~expected], image[~expected])


def test_an_outline_is_wider_on_a_larger_image():
    widths = []
    for side in (100, 900):
        mask = np.zeros((side, side), np.bool_)
        mask[side // 2 :] = True
        drawn = outline(gray_image(side, side), mask)
        widths.append(int((drawn[: side // 2, side // 2] == MASK_COLOR).all(1).sum()))

    assert widths == [1, 6]


def test_the_smallest_region_stays_in_a_smaller_mask():
    mask = np.zeros((2000, 2000), np.bool_)
    mask[777, 1234] = True

    assert resize_mask(mask, 256, 256).any()
    assert not resize_mask(np.zeros_like(mask), 256, 256).any()


def test_an_outline_leaves_its_image_alone():
    image = gray_image(20, 20)
    outline(image, np.ones((20, 20), np.bool_))

    assert (image == 120).all()


@pytest.mark.parametrize("color", [MASK_COLOR, THRESHOLD_COLOR])
def test_no_heatmap_contains_the_colors_of_outlines(color):
    values = np.linspace(0, 1, 1000, dtype=np.float32)[None]
    distance = np.abs(heatmap(values, low=0, high=1).astype(int) - color).sum(axis=2)

    assert distance.min() > 100


# Panels


def test_a_panel_puts_pictures_of_one_height_side_by_side():
    tiles = [
        Tile("one", gray_image(50, 100, 10)),
        Tile("two", gray_image(200, 200, 20)),
    ]

    picture = panel(tiles, height=100)

    rows = np.s_[30:120]
    assert (picture[rows, 10:205] == 10).all()
    assert (picture[rows, 218:310] == 20).all()
    assert picture.dtype == np.uint8
    assert (picture[:5] == 255).all()


def test_a_caption_is_drawn_and_cut_to_its_picture():
    def captioned(text):
        return panel([Tile(text, gray_image(64, 64)), Tile("", gray_image(64, 64))])

    long, longer = captioned("w" * 100), captioned("w" * 200)
    none = captioned("")

    np.testing.assert_array_equal(long, longer)
    assert (long != none).any()
    np.testing.assert_array_equal(long[:, 256 + 8 :], none[:, 256 + 8 :])


def test_a_very_wide_image_becomes_lower_instead_of_filling_the_panel():
    picture = panel([Tile("web", gray_image(10, 1000))], height=64)

    assert picture.shape[1] == 3 * 64 + 16


def test_a_caption_without_any_room_is_left_out():
    picture = panel([Tile("W" * 9, gray_image(1000, 8))], height=64)

    assert picture.shape == panel([Tile("", gray_image(1000, 8))], height=64).shape


def test_the_color_bar_runs_down_from_high_to_low_and_names_both():
    bar = color_bar(100, low=0, high=0.4)

    assert bar.shape[0] == 100
    assert bar[0, 0].tolist() == [252, 255, 164]
    assert bar[-1, 0].tolist() == [0, 0, 4]
    assert (bar[:50] != color_bar(100, low=0, high=0.5)[:50]).any()
    assert bar[80:, 16:].min() < 100  # there is text


def test_the_scale_begins_at_half_the_median_and_has_the_limit_half_way():
    low, high = color_scale((0.08, 0.2))

    assert low == 0.04
    assert (low + high) / 2 == pytest.approx(0.2)


@pytest.mark.parametrize("normal_range", [(0.0, 0.0), (-3.0, -2.0), (-1.0, 0.01)])
def test_strange_normal_scores_still_give_a_scale(normal_range):
    assert color_scale(normal_range) == (0, 0.1)
