"""Masks, annotation channels and saturation areas."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.dataset_files import HEIGHT, WIDTH, draw, draw_mask, write_mvtec_loco

from efficientad.datasets import (
    Sample,
    open_category,
    read_annotation_channels,
    read_defect_mask,
)
from efficientad.datasets.annotations import SaturationArea, read_saturation_areas
from efficientad.errors import ConfigError, DatasetError, ImageError

# Masks


@pytest.fixture
def dent(tmp_path):
    """A defective image with a mask of three rows."""
    mask = draw_mask(tmp_path / "ground_truth/dent/000_mask.png", slice(2, 5))
    return Sample(draw(tmp_path / "test/dent/000.jpg"), "dent", mask)


def test_a_mask_marks_the_defective_pixels(dent):
    mask = read_defect_mask(dent, HEIGHT, WIDTH)

    assert mask.dtype == np.bool_
    assert np.flatnonzero(mask.all(axis=1)).tolist() == [2, 3, 4]
    assert mask.sum() == 3 * WIDTH


def test_a_normal_image_has_no_defective_pixel(tmp_path):
    mask = read_defect_mask(Sample(tmp_path / "000.png", "good"), 7, 9)

    assert mask.shape == (7, 9)
    assert mask.dtype == np.bool_
    assert not mask.any()


def test_several_masks_of_one_image_are_joined(tmp_path):
    """As in MVTec LOCO, where each file has a value of its own."""
    draw_mask(tmp_path / "masks" / "000.png", slice(1, 3), value=253)
    draw_mask(tmp_path / "masks" / "001.png", slice(2, 6), value=1)
    sample = Sample(tmp_path / "000.png", "dent", tmp_path / "masks")

    mask = read_defect_mask(sample, HEIGHT, WIDTH)

    assert np.flatnonzero(mask.any(axis=1)).tolist() == [1, 2, 3, 4, 5]


def test_a_folder_without_masks_is_refused(tmp_path):
    (tmp_path / "000").mkdir()
    sample = Sample(tmp_path / "000.png", "dent", tmp_path / "000")

    with pytest.raises(DatasetError, match=r"000, it holds no images; put at least"):
        read_defect_mask(sample, HEIGHT, WIDTH)


def test_an_empty_mask_of_a_defect_is_allowed(dent):
    draw_mask(dent.mask_path, slice(0))

    mask = read_defect_mask(dent, HEIGHT, WIDTH)

    assert mask.shape == (HEIGHT, WIDTH)
    assert not mask.any()


def test_a_mask_of_another_size_names_both_files_and_sizes(dent):
    draw_mask(dent.mask_path, slice(None), size=(HEIGHT, WIDTH + 1))

    with pytest.raises(
        DatasetError,
        match=r"000_mask\.png has 17 x 12 pixels and .*000\.jpg 16 x 12; export",
    ):
        read_defect_mask(dent, HEIGHT, WIDTH)


def test_a_defect_without_mask_is_refused_with_the_place_for_it(tmp_path):
    sample = Sample(tmp_path / "test" / "dent" / "009.jpg", "dent")

    with pytest.raises(DatasetError, match=r"put 009_mask\.png into ground_truth/dent"):
        read_defect_mask(sample, HEIGHT, WIDTH)


def test_a_damaged_mask_is_named(dent):
    dent.mask_path.write_bytes(dent.mask_path.read_bytes()[:40])

    with pytest.raises(ImageError, match=r"000_mask\.png cannot be decoded"):
        read_defect_mask(dent, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("WebP", {"quality": 80}), ("TIFF", {"compression": "jpeg"})],
)
@pytest.mark.parametrize("read", [read_defect_mask, read_annotation_channels])
def test_a_lossy_mask_is_refused_by_its_content(dent, kind, options, read):
    """Whatever its name: every way to a mask leads to one of these functions."""
    mask = Image.open(dent.mask_path).copy()
    mask.save(dent.mask_path, kind, **options)

    with pytest.raises(ImageError, match=rf"000_mask\.png is a lossy {kind} by its"):
        read(dent, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("WebP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("GIF", {}),
    ],
)
def test_a_mask_without_loss_is_read_in_any_format(dent, kind, options):
    mask = Image.open(dent.mask_path).copy()
    mask.save(dent.mask_path, kind, **options)

    assert read_defect_mask(dent, HEIGHT, WIDTH).sum() == 3 * WIDTH


# Annotation channels


@pytest.fixture
def juice_bottle(tmp_path):
    return open_category(write_mvtec_loco(tmp_path / "juice_bottle"))


def test_each_mask_file_of_mvtec_loco_is_a_channel(juice_bottle):
    channels = read_annotation_channels(juice_bottle.test[4], HEIGHT, WIDTH)

    assert [np.unique(channel).tolist() for channel in channels] == [[0, 254], [0, 253]]
    assert [np.count_nonzero(channel) for channel in channels] == [2 * WIDTH, 4 * WIDTH]
    assert read_annotation_channels(juice_bottle.test[0], HEIGHT, WIDTH) == []


def test_a_channel_in_color_is_refused(juice_bottle):
    draw(juice_bottle.root / "ground_truth/logical_anomalies/000/000.png")

    with pytest.raises(ImageError, match=r"000\.png has the mode RGB; export it with"):
        read_annotation_channels(juice_bottle.test[4], HEIGHT, WIDTH)


def test_a_channel_of_another_size_is_refused(juice_bottle):
    with pytest.raises(DatasetError, match=r"000\.png has 16 x 12 pixels and"):
        read_annotation_channels(juice_bottle.test[4], HEIGHT, WIDTH + 1)


# Saturation areas


@pytest.mark.parametrize(
    ("size", "is_relative"),
    [
        (0, True),
        (1.01, True),
        (-1, True),
        (0.5, False),
        (0, False),
        (np.inf, False),
        (np.nan, True),
        (np.nan, False),
    ],
)
def test_a_saturation_area_out_of_range_is_refused(size, is_relative):
    with pytest.raises(ConfigError, match=f"saturation area must be .* got {size}"):
        SaturationArea(size, is_relative=is_relative)


def test_a_relative_saturation_area_is_rounded_down_but_not_to_zero():
    assert SaturationArea(0.3, is_relative=True).of_defect(10) == 3
    assert SaturationArea(0.35, is_relative=True).of_defect(10) == 3
    assert SaturationArea(0.01, is_relative=True).of_defect(10) == 1


ENTRY = {
    "defect_name": "1_pushpin_missing",
    "pixel_value": 254,
    "saturation_threshold": 6300,
    "relative_saturation": False,
}


def test_saturation_areas_are_read_by_pixel_value(tmp_path):
    path = tmp_path / "defects_config.json"
    entries = [
        ENTRY,
        {
            "defect_name": "scratch",
            "pixel_value": 255,
            "saturation_threshold": 1.0,
            "relative_saturation": True,
        },
    ]
    path.write_text(json.dumps(entries))

    assert read_saturation_areas(path) == {
        254: SaturationArea(6300, is_relative=False),
        255: SaturationArea(1, is_relative=True),
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ("[", "Expecting value"),
        ("{}", "no list of objects"),
        ("[1]", "no list of objects"),
        (
            '[{"pixel_value": 1, "saturation_threshold": 1.0}]',
            "each entry needs 'relative_saturation', entry 0 has pixel_value, satur",
        ),
        (
            json.dumps([ENTRY | {"saturation_threshold": 0.5}]),
            "must be at least 1 pixel, got 0.5",
        ),
        (json.dumps([ENTRY | {"pixel_value": None}]), "int"),
        (json.dumps([ENTRY | {"saturation_threshold": 10**400}]), "too large"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_wrong_defects_config_is_named_with_the_reason(tmp_path, text, reason):
    path = tmp_path / "defects_config.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(
        DatasetError, match=rf"config\.json cannot be used \(.*{reason}"
    ):
        read_saturation_areas(path)
