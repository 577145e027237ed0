"""Faults of a data set are found, and nothing else is."""

import numpy as np
import pytest
from PIL import Image
from tests.dataset_files import smooth_picture, write_sound_category

from efficientad import DatasetError
from efficientad.calibration.normal_images import training_and_validation
from efficientad.datasets.checks import check_category


@pytest.fixture
def category(tmp_path):
    return write_sound_category(tmp_path / "part")


def found(root):
    """Kind, severity and message of all findings in one category."""
    findings = check_category(root).findings
    return [(f.kind, f.severity, f.message) for f in findings]


def test_nothing_is_found_in_a_sound_category(category):
    assert not found(category)


def test_an_image_that_cannot_be_read_is_an_error_and_the_others_are_read(category):
    (category / "train/good/3.png").write_bytes(b"no image")
    (category / "test/good/1.png").write_bytes(b"")

    findings = found(category)

    assert [f[:2] for f in findings] == [("unreadable", "error")] * 2
    assert "3.png is no PNG" in findings[0][2]
    assert "1.png is empty" in findings[1][2]


def test_a_training_picture_in_the_test_is_an_error(category):
    smooth_picture(4).save(category / "test/good/again.bmp")

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("same picture", "error")
    assert "train/good/4.png" in message
    assert "test/good/again.bmp" in message


def test_duplicates_within_the_training_are_a_warning(category):
    smooth_picture(4).save(category / "train/good/again.png")

    assert [f[:2] for f in found(category)] == [("same picture", "warning")]


def test_a_training_picture_in_the_validation_is_an_error_as_in_training(category):
    (category / "validation/good").mkdir(parents=True)
    smooth_picture(4).save(category / "validation/good/again.png")

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("same picture", "error")
    assert message.endswith("not trained on: remove them from one side")
    with pytest.raises(DatasetError, match="images that were not trained on"):
        training_and_validation(category, validation=None, validation_share=0.1, seed=0)


def test_a_picture_that_is_normal_and_defective_is_an_error(category):
    smooth_picture(80).save(category / "test/good/contradiction.png")

    assert [f[:2] for f in found(category)] == [("same picture", "error")]


def test_a_picture_stored_again_with_losses_is_similar(category):
    smooth_picture(7).save(category / "test/good/lossy.jpg", quality=60)

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("similar picture", "warning")
    assert "train/good/7.png" in message
    assert "test/good/lossy.jpg" in message


def test_images_of_another_size_or_mode_are_named(category):
    smooth_picture(90, size=104).save(category / "train/good/large.png")
    smooth_picture(91).convert("L").save(category / "test/good/gray.png")

    kinds = {kind: message for kind, _, message in found(category)}

    assert set(kinds) == {"sizes", "modes"}
    assert "large.png (104 x 104 pixels)" in kinds["sizes"]
    assert "gray.png (mode L)" in kinds["modes"]


@pytest.mark.parametrize("shift", [0, 1, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_that_use_the_lower_bits_of_16_are_named(category, shift, suffix):
    for path in sorted(category.rglob("good/*.png")):
        gray = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray((gray * 257) >> shift).save(path.with_suffix(f".{suffix}"))
        if suffix != "png":
            path.unlink()

    dark = [message for kind, _, message in found(category) if "lower" in message]

    if shift < 2:
        assert not dark
    else:
        (message,) = dark
        assert "have 16 bits and use the lower 12 only: train/good/0." in message
        assert message.endswith("or multiply by 16")


def test_a_picture_with_red_and_blue_exchanged_is_a_warning(category):
    rng = np.random.default_rng(0)
    for path in sorted(category.rglob("good/*.png")):
        pixels = rng.integers((150, 90, 60), (210, 150, 120), (40, 48, 3), np.uint8)
        is_exchanged = path == category / "test/good/1.png"
        Image.fromarray(pixels[..., ::-1] if is_exchanged else pixels).save(path)

    ((_, severity, message),) = [f for f in found(category) if f[0] == "colors"]

    assert severity == "warning"
    assert "exchanged in 1 images against the training images: test/good/1" in message


def test_an_image_of_8_bits_may_be_dark(category):
    path = category / "train/good/0.png"
    Image.fromarray(np.asarray(Image.open(path)) // 16).save(path)

    assert not found(category)


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
    smooth_picture(3).save(category / "train/good/2.png")

    errors = [f for f in found(category) if f[1] == "error"]

    ((kind, _, message),) = errors
    assert kind == "too few"
    assert "there are 9 different ones in 10 files; record" in message
    with pytest.raises(DatasetError, match="10 different normal images, got 9"):
        training_and_validation(category, validation=None, validation_share=0.1, seed=0)


def test_an_evaluation_without_normal_test_images_is_an_error(category):
    for path in (category / "test/good").iterdir():
        path.unlink()
    (category / "test/good").rmdir()

    ((kind, severity, message),) = found(category)

    assert (kind, severity) == ("too few", "error")
    assert "an evaluation needs normal test images, there are none" in message
