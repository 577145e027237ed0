"""Masks, annotation channels and saturation areas."""

import json

import numpy as np
import pytest

from efficientad.datasets.annotations import SaturationArea, read_saturation_areas
from efficientad.errors import ConfigError, DatasetError

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
