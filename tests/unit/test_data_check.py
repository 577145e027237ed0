"""The verb `check`: what is wrong with a data set is found, and nothing else is."""

import json

import numpy as np
import pytest
from PIL import Image

from efficientad import DatasetError, check_data, cli, save

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


def found(root, **options):
    """(kind, severity, message) of all findings in one category."""
    (check,) = check_data(root, **options)
    return [(f.kind, f.severity, f.message) for f in check.findings]


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


def test_a_training_picture_in_the_test_is_an_error(category):
    picture(4).save(category / "test/good/again.bmp")

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("same picture", "error")
    assert "train/good/4.png" in message
    assert "test/good/again.bmp" in message


def test_twins_within_the_training_are_a_warning(category):
    picture(4).save(category / "train/good/again.png")

    assert [f[:2] for f in found(category)] == [("same picture", "warning")]


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


def test_a_normal_image_unlike_all_others_is_suspicious(
    category, make_detector, tmp_path
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
    save(make_detector(), model)

    suspicious = [f for f in found(category, model=model) if f[0] == "suspicious"]

    ((_, severity, message),) = suspicious
    assert severity == "warning"
    assert "1 normal images are unlike all others: train/good/5.png" in message


def test_all_findings_and_files_are_written(category, tmp_path):
    picture(4).save(category / "test/good/again.bmp")
    output = tmp_path / "check.json"

    assert cli.main(["check", str(category.parent), "--output", str(output)]) == 1

    (check,) = json.loads(output.read_text())
    assert check["n_images"] == {"train": 12, "validation": 0, "test": 7}
    (finding,) = check["findings"]
    assert len(finding["paths"]) == 2


def test_no_data_is_one_sentence(tmp_path):
    with pytest.raises(DatasetError, match="does not exist; check the path"):
        check_data(tmp_path / "nothing")
