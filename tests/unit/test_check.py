"""The verb `check`: one check for each category, printed and written."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.dataset_files import smooth_picture, write_sound_category

from efficientad import DatasetError, check, save
from efficientad.cli import main as cli
from efficientad.errors import ModelFileError
from efficientad.evaluation import unusual_images
from efficientad.images.preparation import Preparation


@pytest.fixture
def category(tmp_path):
    return write_sound_category(tmp_path / "part")


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
    smooth_picture(0).save(alone / "0.png")
    (alone.parent / "dent").mkdir()
    smooth_picture(90).save(alone.parent / "dent" / "0.png")

    assert cli.main(["check", str(category.parent)]) == 1

    out = capsys.readouterr().out
    assert "alone: no images, 1 finding\n  error: " in out
    assert "part: 12 train" in out


def test_a_normal_image_unlike_all_others_is_suspicious(
    category, make_detector, joined, tmp_path
):
    base = np.asarray(smooth_picture(0), np.float32)
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

    (checked,) = check(category, model=model)

    (suspicious,) = [f for f in checked.findings if f.kind == "suspicious"]
    assert suspicious.severity == "warning"
    assert "unlike all others: train/good/5.png" in suspicious.message
    assert suspicious.paths == (category / "train" / "good" / "5.png",)


def test_a_model_reads_images_of_a_check_with_its_levels(
    category, make_detector, joined, tmp_path, monkeypatch
):
    model, read = tmp_path / "part.ead", []
    predictor = replace(joined(make_detector()), preparation=Preparation(levels=(0, 9)))
    save(predictor, model)

    def distances(_detector, images):
        read.extend(images)
        return np.zeros(len(read))

    monkeypatch.setattr(unusual_images, "leave_one_out_distances", distances)
    dark = np.full((96, 96), 9, np.uint16)
    Image.fromarray(dark).save(category / "train" / "good" / "0.png")
    check(category, model=model)

    assert read[0].min() == 255
    export = tmp_path / "part.onnx"
    export.touch()
    with pytest.raises(ModelFileError, match=r"part\.onnx is an export already"):
        check(category, model=export)


def test_all_findings_and_files_are_written(category, tmp_path):
    smooth_picture(4).save(category / "test/good/again.bmp")
    output = tmp_path / "check.json"

    assert cli.main(["check", str(category.parent), "--output", str(output)]) == 1

    (checked,) = json.loads(output.read_text())
    assert checked["n_images"] == {"train": 12, "validation": 0, "test": 7}
    (finding,) = checked["findings"]
    assert len(finding["paths"]) == 2


def test_what_is_not_used_is_a_warning(category, capsys):
    (category / "train/good/13.avif").write_bytes(b"no image that can be read")
    (category / "readme.txt").write_text("as in MVTec AD")

    assert cli.main(["check", str(category)]) == 0

    out = capsys.readouterr().out
    assert f"  warning: not used of {category}: " in out
    assert ".avif files (1)" in out


def test_a_broken_link_is_an_error(category, capsys):
    (category / "train/good/13.png").symlink_to("gone")

    assert cli.main(["check", str(category)]) == 1

    out = capsys.readouterr().out
    assert "1 finding\n  error: an image was needed, " in out
    assert "13.png does not exist" in out


def test_a_name_cannot_forge_a_line(category, capsys):
    forged = category / "train/good" / "x\npart: 12 train, 0 findings\x1b[8m.png"
    forged.write_bytes(b"no image")

    assert cli.main(["check", str(category)]) == 1

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"x\npart: 12 train, 0 findings\x1b[8m.png is no PNG" in out
    assert len(out.splitlines()) == 2


def test_no_data_is_one_sentence(tmp_path):
    with pytest.raises(DatasetError, match="does not exist; check the path"):
        check(tmp_path / "nothing")
