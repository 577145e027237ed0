"""The verb `check`: what is wrong with a data set is found, and nothing else is."""

import json
from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image

from efficientad import DatasetError, check, save
from efficientad.cli import main as cli
from efficientad.datasets.near_duplicates import linked
from efficientad.training.normal_images import training_and_validation

SIZE = 96


def picture(seed, size=SIZE):
    """Smooth, and like no other."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BILINEAR)


@pytest.fixture
def category(tmp_path):
    """A category without a fault."""
    root = tmp_path / "part"
    for folder, n, first in (("train/good", 12, 0), ("test/good", 3, 50)):
        (root / folder).mkdir(parents=True)
        for i in range(n):
            picture(first + i).save(root / folder / f"{i}.png")
    (root / "test" / "scratch").mkdir()
    (root / "ground_truth" / "scratch").mkdir(parents=True)
    for i in range(3):
        picture(80 + i).save(root / "test" / "scratch" / f"{i}.png")
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[10:20, 30 + i : 50] = 255
        Image.fromarray(mask).save(root / "ground_truth" / "scratch" / f"{i}_mask.png")
    return root


AREA = {
    "pixel_value": 254,
    "saturation_threshold": 10,
    "relative_saturation": False,
}


@pytest.fixture
def loco(category):
    """The same, annotated as MVTec LOCO is."""
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


def found(root, **options):
    """(kind, severity, message) of all findings in one category."""
    (checked,) = check(root, **options)
    return [(f.kind, f.severity, f.message) for f in checked.findings]


def test_nothing_is_found_where_nothing_is_wrong(category, capsys):
    assert cli.main(["check", str(category)]) == 0

    assert "part: 12 train, 0 validation, 6 test images, 0 findings" in (
        capsys.readouterr().out
    )


def test_a_broken_image_is_an_error_and_the_others_are_read(category, capsys):
    (category / "train/good/3.png").write_bytes(b"no image")
    (category / "test/good/1.png").write_bytes(b"")

    assert cli.main(["check", str(category)]) == 1

    out = capsys.readouterr().out
    assert "2 findings" in out
    assert "3.png" in out
    assert "1.png" in out


def test_a_folder_among_others_that_is_none_is_an_error_and_they_are_checked(
    category, capsys
):
    alone = category.with_name("alone") / "good"
    alone.mkdir(parents=True)
    picture(0).save(alone / "0.png")
    (alone.parent / "dent").mkdir()
    picture(90).save(alone.parent / "dent" / "0.png")

    assert cli.main(["check", str(category.parent)]) == 1

    out = capsys.readouterr().out
    assert "alone: no images, 1 finding\n  error: " in out
    assert "part: 12 train" in out


def test_a_training_picture_in_the_test_is_an_error(category):
    picture(4).save(category / "test/good/again.bmp")

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("same picture", "error")
    assert "train/good/4.png" in message
    assert "test/good/again.bmp" in message


def test_duplicates_within_the_training_are_a_warning(category):
    picture(4).save(category / "train/good/again.png")

    assert [f[:2] for f in found(category)] == [("same picture", "warning")]


def test_a_training_picture_in_the_validation_is_an_error_as_in_training(category):
    (category / "validation/good").mkdir(parents=True)
    picture(4).save(category / "validation/good/again.png")

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("same picture", "error")
    assert message.endswith("not trained on: remove them from one side")
    with pytest.raises(DatasetError, match="images that were not trained on"):
        training_and_validation(category, validation=None, validation_share=0.1, seed=0)


def test_a_picture_that_is_normal_and_defective_is_an_error(category):
    picture(80).save(category / "test/good/contradiction.png")

    assert [f[:2] for f in found(category)] == [("same picture", "error")]


def test_a_picture_stored_again_with_losses_is_similar(category):
    picture(7).save(category / "test/good/lossy.jpg", quality=60)

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("similar picture", "warning")
    assert "train/good/7.png" in message
    assert "test/good/lossy.jpg" in message


def test_other_sizes_and_modes_are_named(category):
    picture(90, size=SIZE + 8).save(category / "train/good/large.png")
    picture(91).convert("L").save(category / "test/good/gray.png")

    kinds = {kind: message for kind, _, message in found(category)}

    assert set(kinds) == {"sizes", "modes"}
    assert "large.png (104 x 104 pixels)" in kinds["sizes"]
    assert "gray.png (mode L)" in kinds["modes"]


def test_masks_that_are_empty_or_of_another_size_are_found(category):
    masks = category / "ground_truth" / "scratch"
    Image.new("L", (SIZE, SIZE)).save(masks / "0_mask.png")
    Image.new("L", (SIZE, SIZE - 1), 255).save(masks / "1_mask.png")

    findings = found(category)

    assert [f[:2] for f in findings] == [("mask", "error"), ("mask", "warning")]
    assert "1_mask.png has 96 x 95 pixels" in findings[0][2]
    assert "0_mask.png" in findings[1][2]
    assert "all pixels of these images count as normal" in findings[1][2]


def test_a_missing_mask_and_a_mask_of_a_normal_image_are_errors(category):
    (category / "ground_truth/scratch/2_mask.png").unlink()
    (category / "ground_truth/good").mkdir()
    Image.new("L", (SIZE, SIZE)).save(category / "ground_truth/good/0_mask.png")

    errors = [
        message for _, severity, message in found(category) if severity == "error"
    ]

    assert any("scratch" in message for message in errors)
    assert any("good" in message for message in errors)


def test_too_few_images_are_an_error(category):
    for i in range(4):
        (category / "train" / "good" / f"{i}.png").unlink()

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("too few", "error")
    assert "at least 10 normal images, there are 8" in message


def test_duplicates_and_broken_images_do_not_count(category):
    for name in ("0", "1"):
        (category / "train" / "good" / f"{name}.png").unlink()
    assert not found(category)
    picture(3).save(category / "train/good/2.png")

    errors = [f for f in found(category) if f[1] == "error"]

    ((kind, _, message),) = errors
    assert kind == "too few"
    assert "there are 9 different ones in 10 files; record" in message
    with pytest.raises(DatasetError, match="10 different normal images, got 9"):
        training_and_validation(category, validation=None, validation_share=0.1, seed=0)


def test_linked_indices_are_grouped_whichever_pairs_link_them():
    chain = list(pairwise(range(400)))

    assert linked(400, chain) == [list(range(400))]
    assert linked(400, combinations(range(400), 2)) == linked(400, chain)
    assert linked(400, reversed(chain)) == linked(400, chain)


def test_a_long_chain_is_one_group_from_either_end():
    n = 20_000

    assert linked(n, pairwise(range(n))) == [list(range(n))]
    assert linked(n, pairwise(reversed(range(n)))) == [list(range(n))]


def test_groups_stay_apart_and_single_indices_are_left_out():
    assert linked(8, [(5, 7), (1, 4), (2, 7), (4, 6)]) == [[1, 4, 6], [2, 5, 7]]
    assert linked(3, []) == []


# MVTec LOCO's annotation


def test_nothing_is_found_in_a_sound_annotation_of_mvtec_loco(loco):
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


# Suspicious images, and what is written


def test_a_normal_image_unlike_all_others_is_suspicious(
    category, make_detector, joined, tmp_path
):
    base = np.asarray(picture(0), np.float32)
    for i in range(12):
        noise = np.random.default_rng(i).normal(0, 6, base.shape)
        pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
        if i == 5:
            pixels[30:70, 30:70] = (np.indices((40, 40)).sum(0) % 8 * 30)[..., None]
        Image.fromarray(pixels).save(category / "train" / "good" / f"{i}.png")
    for name in ("0", "1", "2"):
        (category / "test" / "good" / f"{name}.png").unlink()
    Image.fromarray(base.astype(np.uint8)).save(category / "test" / "good" / "0.png")
    model = tmp_path / "part.ead"
    save(joined(make_detector()), model)

    suspicious = [f for f in found(category, model=model) if f[0] == "suspicious"]

    ((_, severity, message),) = suspicious
    assert severity == "warning"
    assert "1 normal images are unlike all others: train/good/5.png" in message


def test_all_findings_and_files_are_written(category, tmp_path):
    picture(4).save(category / "test/good/again.bmp")
    output = tmp_path / "check.json"

    assert cli.main(["check", str(category.parent), "--output", str(output)]) == 1

    (checked,) = json.loads(output.read_text())
    assert checked["n_images"] == {"train": 12, "validation": 0, "test": 7}
    (finding,) = checked["findings"]
    assert len(finding["paths"]) == 2


def test_no_data_is_one_sentence(tmp_path):
    with pytest.raises(DatasetError, match="does not exist; check the path"):
        check(tmp_path / "nothing")
