"""Regions of interest and areas from what a user gives."""

import json

import numpy as np
import pytest
from PIL import Image

from efficientad.calibration.rule_files import rule_of
from efficientad.calibration.rule_options import RuleOptions
from efficientad.errors import ConfigError

SIZES = [(200, 300)] * 3
SQUARE = [[30, 20], [150, 20], [150, 100], [30, 100]]


@pytest.fixture
def drawn(tmp_path):
    """Write a region in one of its forms and return the path."""

    def written(kind, unit="pixels", polygons=(SQUARE,)):
        if kind == "picture":
            pixels = np.zeros((200, 300), np.uint8)
            pixels[20:100, 30:150] = 255
            path = tmp_path / "region.png"
            Image.fromarray(pixels).save(path)
            return path
        path = tmp_path / "region.json"
        path.write_text(json.dumps({"unit": unit, "polygons": polygons}))
        return path

    return written


@pytest.mark.parametrize("kind", ["picture", "pixels", "shares"])
def test_pictures_and_polygons_mark_the_same_pixels(drawn, kind):
    shares = [[x / 300, y / 200] for x, y in SQUARE]
    path = drawn(kind, kind, [shares if kind == "shares" else SQUARE])

    mask = rule_of(RuleOptions(region=path), SIZES).mask

    expected = np.zeros((200, 300), bool)
    expected[20:100, 30:150] = True
    assert (mask != expected).mean() < 0.005
    ignored = rule_of(RuleOptions(ignore=path), SIZES).mask
    np.testing.assert_array_equal(ignored, ~mask)


def test_several_polygons_mark_all_of_their_pixels(drawn):
    other = [[200, 120], [290, 120], [290, 190]]

    one = rule_of(RuleOptions(region=drawn("pixels")), SIZES).mask
    both = rule_of(RuleOptions(region=drawn("p", polygons=[SQUARE, other])), SIZES).mask

    assert both.sum() - one.sum() == pytest.approx(90 * 70 / 2, rel=0.05)


def test_a_picture_of_another_size_but_the_same_aspect_fits(drawn, tmp_path):
    small = tmp_path / "small.png"
    with Image.open(drawn("picture")) as picture:
        picture.resize((75, 50)).save(small)

    mask = rule_of(RuleOptions(region=small), SIZES).mask

    assert mask.mean() == pytest.approx(120 * 80 / (200 * 300), rel=0.1)


def test_a_white_region_stands_for_the_whole_image(tmp_path):
    path = tmp_path / "white.png"
    Image.new("L", (30, 20), 255).save(path)

    assert rule_of(RuleOptions(region=path), SIZES).is_plain


def test_areas_become_shares_of_the_image():
    rule = rule_of(RuleOptions(min_area=600), SIZES)
    assert rule.min_area == 0.01
    assert rule.image_mm2 is None
    in_mm = rule_of(RuleOptions(min_area=6, pixel_size=0.1), SIZES)
    assert in_mm.min_area == pytest.approx(0.01)
    assert in_mm.image_mm2 == pytest.approx(600)


@pytest.mark.parametrize(
    ("polygons", "unit", "message"),
    [
        ([[[0, 0], [10, 10], [10, 0], [0, 10]]], "pixels", "polygon 1 of .* cross"),
        ([[[0, 0], [301, 0], [9, 9]]], "pixels", "polygon 1 of .* lies outside"),
        ([[[0, 0], [1.2, 0], [0.5, 0.5]]], "shares", "lies outside"),
        ([[[0, 0], [1, 1]]], "shares", r"got shape \(2, 2\) in polygon 1"),
        ([[[0, 0, 0], [1, 1, 1], [1, 0, 1]]], "shares", "got shape"),
        ([], "shares", "got unit 'shares' and 0 polygons"),
        ([SQUARE], "inches", "got unit 'inches'"),
        ([[["a", 0], [1, 1], [0, 1]]], "shares", "got something else"),
        ([[[float("nan"), 0], [1, 1], [0, 1]]], "shares", "got something else"),
        ([[[10**400, 0], [1, 1], [0, 1]]], "shares", "got something else"),
        ([[[0, 0]] * 2001], "shares", "may have 2000 corners, polygon 1 .* 2001"),
    ],
)
def test_a_wrong_polygon_gets_one_sentence(drawn, polygons, unit, message):
    with pytest.raises(ConfigError, match=message):
        rule_of(RuleOptions(region=drawn("json", unit, polygons)), SIZES)


def test_a_json_file_of_another_kind_gets_one_sentence(tmp_path):
    path = tmp_path / "region.json"
    for text in ("[1]", "{", '{"polygons": []}', '{"polygons": ' + "[" * 5000):
        path.write_text(text)
        with pytest.raises(ConfigError, match="needs polygons of three or more"):
            rule_of(RuleOptions(region=path), SIZES)
    with pytest.raises(ConfigError, match="cannot read"):
        rule_of(RuleOptions(region=tmp_path / "none.json"), SIZES)


def test_what_does_not_fit_the_images_gets_one_sentence(drawn, tmp_path):
    square = tmp_path / "square.png"
    Image.new("L", (20, 20), 255).save(square)
    black = tmp_path / "black.png"
    Image.new("L", (30, 20)).save(black)

    for options, sizes, message in [
        (
            RuleOptions(region=square),
            SIZES,
            "needs the aspect of the images, 300 x 200",
        ),
        (RuleOptions(region=black), SIZES, "the region of interest is empty"),
        (RuleOptions(min_area=70_000), SIZES, r"is 7e\+04 pixels, the largest"),
        (
            RuleOptions(min_area=5),
            [(2, 3), (4, 6)],
            "an area in pixels needs",
        ),
        (
            RuleOptions(region=drawn("p")),
            [(200, 300), (400, 600)],
            "a polygon in pixels",
        ),
        (RuleOptions(ignore=black), [(2, 3), (3, 3)], "needs images of one aspect"),
        (
            RuleOptions(region=drawn("p"), min_area=12_000),
            SIZES,
            "place where it may lie has 9",
        ),
    ]:
        with pytest.raises(ConfigError, match=message):
            rule_of(options, sizes)
