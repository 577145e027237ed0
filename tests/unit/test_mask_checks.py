"""Faults of masks are found, and nothing else is."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.dataset_files import write_sound_category

from efficientad.datasets.checks import check_category

SIZE = 96

AREA = {
    "pixel_value": 254,
    "saturation_threshold": 10,
    "relative_saturation": False,
}


@pytest.fixture
def category(tmp_path):
    return write_sound_category(tmp_path / "part")


@pytest.fixture
def loco(category):
    """The same category, annotated as MVTec LOCO is."""
    (category / "test/scratch").rename(category / "test/logical_anomalies")
    masks = category / "ground_truth" / "logical_anomalies"
    (category / "ground_truth/scratch").rename(masks)
    for i in range(3):
        (masks / f"{i}").mkdir()
        (masks / f"{i}_mask.png").unlink()
        draw_channel(masks / f"{i}" / "000.png", 254)
    (category / "defects_config.json").write_text(json.dumps([AREA]))
    return category


def draw_channel(path, *values, mode="L"):
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for i, value in enumerate(values):
        labels[20 * i : 20 * i + 10, 30:50] = value
    Image.fromarray(labels).convert(mode).save(path)


def found(root):
    """Kind, severity and message of all findings in one category."""
    findings = check_category(root).findings
    return [(f.kind, f.severity, f.message) for f in findings]


def test_a_lossy_mask_is_named_with_the_cause(category):
    mask = category / "ground_truth" / "scratch" / "0_mask.png"
    Image.open(mask).copy().save(mask, "JPEG")

    (finding,) = found(category)

    assert finding[:2] == ("mask", "error")
    assert "0_mask.png is a lossy JPEG by its content" in finding[2]


def test_masks_that_are_empty_or_of_another_size_are_found(category):
    masks = category / "ground_truth" / "scratch"
    Image.new("L", (SIZE, SIZE)).save(masks / "0_mask.png")
    Image.new("L", (SIZE, SIZE - 1), 255).save(masks / "1_mask.png")

    findings = found(category)

    assert [f[:2] for f in findings] == [("mask", "error"), ("mask", "warning")]
    assert "1_mask.png has 96 x 95 pixels" in findings[0][2]
    assert "0_mask.png" in findings[1][2]
    assert "all pixels of these images count as normal" in findings[1][2]


@pytest.mark.parametrize("size", [(SIZE, SIZE), (SIZE, SIZE // 2)])
def test_masks_drawn_on_the_stored_pixels_of_a_turned_image_are_found(category, size):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = category / "test/scratch/0.png"
    picture = Image.open(path).resize(size)
    mask = Image.new("L", size)
    mask.paste(255, (5, 5, 20, 10))
    picture.save(path, exif=exif)
    mask.save(category / "ground_truth/scratch/0_mask.png")

    messages = [message for kind, _, message in found(category) if kind == "mask"]

    assert len(messages) == (1 if size[0] == size[1] else 2)
    assert (
        "no EXIF orientation, and their images have one: ground_truth" in messages[-1]
    )

    mask.save(category / "ground_truth/scratch/0_mask.png", exif=exif)
    assert not [message for kind, _, message in found(category) if kind == "mask"]


def test_a_missing_mask_and_a_mask_of_a_normal_image_are_errors(category):
    (category / "ground_truth/scratch/2_mask.png").unlink()
    (category / "ground_truth/good").mkdir()
    Image.new("L", (SIZE, SIZE)).save(category / "ground_truth/good/0_mask.png")

    errors = [
        message for _, severity, message in found(category) if severity == "error"
    ]

    assert any("scratch" in message for message in errors)
    assert any("good" in message for message in errors)


def test_defects_without_any_mask_are_a_warning(category):
    for path in (category / "ground_truth/scratch").iterdir():
        path.unlink()
    (category / "ground_truth/scratch").rmdir()

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("mask", "warning")
    assert message.startswith("3 defective images have no mask: test/scratch/0.png, ")
    assert "they take no part in pixel metrics" in message


# MVTec LOCO


def test_nothing_is_found_in_a_sound_scenario_of_mvtec_loco(loco):
    assert not found(loco)


@pytest.mark.parametrize("text", ["[", '[{"pixel_value": 254}]'])
def test_a_wrong_defects_config_is_an_error(loco, text):
    (loco / "defects_config.json").write_text(text)

    ((kind, severity, message),) = found(loco)

    assert (kind, severity) == ("mask", "error")
    assert "defects_config.json cannot be used" in message


def test_a_value_without_saturation_area_is_an_error(loco):
    draw_channel(loco / "ground_truth/logical_anomalies/1/000.png", 254, 3, 7)

    ((kind, severity, message),) = found(loco)

    assert (kind, severity) == ("mask", "error")
    assert "has them for 254, others are in " in message
    assert "ground_truth/logical_anomalies/1/000.png (3, 7); correct" in message


def test_a_channel_in_color_is_an_error(loco):
    path = loco / "ground_truth/logical_anomalies/1/000.png"
    draw_channel(path, 254, mode="RGB")

    ((kind, severity, message),) = found(loco)

    assert (kind, severity) == ("mask", "error")
    assert f"{path} has the mode RGB" in message


def test_a_broken_channel_is_named_and_the_others_are_read(loco):
    masks = loco / "ground_truth/logical_anomalies/1"
    (masks / "000.png").write_bytes(b"no image")
    draw_channel(masks / "001.png", 3)

    messages = [message for _, _, message in found(loco)]

    assert len(messages) == 2
    assert f"{masks / '000.png'} is no PNG" in messages[0]
    assert "001.png (3)" in messages[1]


def test_mvtec_loco_without_its_defects_config_is_a_warning(loco):
    (loco / "defects_config.json").unlink()

    ((kind, severity, message),) = found(loco)

    assert (kind, severity) == ("mask", "warning")
    assert f"{loco / 'defects_config.json'} was expected" in message
    assert "test/logical_anomalies, there is none" in message
