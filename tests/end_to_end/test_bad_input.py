"""What the command line does with what it cannot use.

Either it is handled correctly, or there is one sentence on stderr and exit code 2; and
nothing that was finished earlier is lost.
"""

import csv
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageOps
from safetensors.numpy import save_file

import efficientad
from efficientad.cli.main import main
from efficientad.decisions.decision import Calibration
from efficientad.demo_parts import write_category
from efficientad.images.listing import find_images
from efficientad.inspection import files
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.maps import MapScale
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.model_files import container as tensor_file
from efficientad.model_files import teachers
from efficientad.storage import require_writable, temporary_path
from efficientad.training import run as student

FULL_DISK = Path("/dev/full")
needs_full_disk = pytest.mark.skipif(not FULL_DISK.exists(), reason="needs /dev/full")

N_NORMAL = 10
ONE_STEP = ("--steps", "1", "--batch-size", "1", "--device", "cpu")
FAST = (*ONE_STEP, "--preset", "paper", "--no-has-pretraining-penalty")


def refusal_of(capsys, *arguments):
    """The one sentence by which the command line refuses."""
    code = main([str(argument) for argument in arguments])

    captured = capsys.readouterr().err
    *before, sentence = captured.splitlines()
    assert code == 2
    assert sentence.startswith("efficientad: ")
    assert "Traceback" not in captured
    assert not [line for line in before if line.startswith("efficientad: ")]
    return sentence


def pixels_of(seed, height=40, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_normal_images(folder, n=N_NORMAL):
    for seed in range(n):
        save(folder / f"{seed:03}.png", pixels_of(seed))
    return folder


@pytest.fixture
def normal_images(tmp_path):
    return write_normal_images(tmp_path / "good")


@pytest.fixture
def output(tmp_path):
    """Where a detector stands that was made earlier."""
    path = tmp_path / "part.ead"
    path.write_text("made earlier")
    return path


def untrained_detector():
    torch.manual_seed(0)
    detector = Detector(
        PatchDescriptionNetwork("small"),
        PatchDescriptionNetwork("small", 768),
        Autoencoder(),
        ChannelStatistics(torch.zeros(384), torch.ones(384)),
    )
    return detector.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory, joined):
    path = tmp_path_factory.mktemp("model") / "part.ead"
    scales = dict.fromkeys(("local", "global"), MapScale(0.0, 1.0))
    calibration = Calibration(scales, (0.1, 0.2, 0.3), 0.01)
    efficientad.save(joined(untrained_detector(), calibration), path)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("category") / "parts"
    write_category(folder, n_train=1, n_test_good=1, n_per_defect=1, seed=1, size=64)
    return folder


# Images that cannot be used


def write_text(path):
    path.write_text("no image")


def write_nothing(path):
    path.touch()


def write_truncated_png(path):
    save(path, pixels_of(99))
    path.write_bytes(path.read_bytes()[:1000])


def write_truncated_jpeg(path):
    save(path, pixels_of(99), format="JPEG")
    path.write_bytes(path.read_bytes()[:1000])


def write_animation(file_format):
    def write(path):
        first, *others = (Image.fromarray(pixels_of(seed)) for seed in (97, 98, 99))
        first.save(path, file_format, save_all=True, append_images=others)

    return write


def write_size(width, height):
    def write(path):
        Image.new("1", (width, height)).save(path, "PNG")

    return write


UNUSABLE = {
    "unreadable": (write_text, "is no PNG, JPEG"),
    "zero-byte": (write_nothing, "is empty (0 bytes)"),
    "truncated PNG": (write_truncated_png, "cannot be decoded"),
    "truncated JPEG": (write_truncated_jpeg, "cannot be decoded"),
    "animated GIF": (write_animation("GIF"), "must have one frame"),
    "animated WebP": (write_animation("WEBP"), "must have one frame"),
    "animated PNG": (write_animation("PNG"), "must have one frame"),
    "pages of a TIFF": (write_animation("TIFF"), "must have one frame"),
    "1 x 1": (write_size(1, 1), "at least 8 x 8 pixels"),
    "20000 x 20000": (write_size(20_000, 20_000), "200 million pixels"),
}


@pytest.mark.parametrize(("write", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_normal_image_is_named(normal_images, output, capsys, write, words):
    write(normal_images / "bad.png")

    sentence = refusal_of(capsys, "train", normal_images, "--output", output, *FAST)

    assert "bad.png" in sentence
    assert words in sentence
    assert output.read_text() == "made earlier"


def predictions_in(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {Path(row["path"]).name: row for row in csv.DictReader(file)}


def test_unusable_images_do_not_stop_the_prediction_of_others(model, tmp_path, capsys):
    images = tmp_path / "images"
    save(images / "zzz.png", pixels_of(0))
    for name, (write, _) in UNUSABLE.items():
        write(images / f"{name}.png")

    code = main(["predict", str(model), str(images), "--output", str(tmp_path / "out")])

    rows = predictions_in(tmp_path / "out")
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    stderr = capsys.readouterr().err
    assert code == 1
    assert len(rows) == len(lines) == len(UNUSABLE) + 1
    for name, (_, words) in UNUSABLE.items():
        row = rows[f"{name}.png"]
        assert words in row["error"]
        assert row["error"] in stderr
        assert not row["image_score"]
    assert float(rows["zzz.png"]["image_score"]) >= 0
    assert not rows["zzz.png"]["error"]
    assert [json.loads(line)["path"] for line in lines] == [
        row["path"] for row in rows.values()
    ]


def test_an_unusable_test_image_is_named(model, parts, tmp_path, capsys):
    category = shutil.copytree(parts, tmp_path / "parts")
    (category / "test" / "good" / "000.png").write_text("no image")

    sentence = refusal_of(
        capsys, "evaluate", model, category, "--output", tmp_path / "out"
    )

    assert "000.png is no PNG" in sentence


# Images of all kinds that can be used


def write_kinds(folder):
    """The same picture in many ways: the file of each, and its plain copy's pixels."""
    gray, deep = pixels_of(101)[..., 0], pixels_of(102)[..., 0]
    opaque, upright, printed = (pixels_of(seed) for seed in (103, 104, 105))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    few_colors = Image.fromarray(pixels_of(106)).quantize(16)
    copy_of = {
        save(folder / "gray.png", gray): np.dstack([gray] * 3),
        save(folder / "16 bit.png", deep.astype(np.uint16) * 257): np.dstack(
            [deep] * 3
        ),
        save(folder / "alpha.png", np.dstack([opaque, gray])): opaque,
        save(folder / "exif.png", np.rot90(upright), exif=turned): upright,
        folder / "cmyk.tiff": printed,
        folder / "palette.png": np.asarray(few_colors.convert("RGB")),
    }
    Image.fromarray(printed).convert("CMYK").save(folder / "cmyk.tiff")
    few_colors.save(folder / "palette.png")
    return copy_of


def test_the_kinds_are_what_they_are_called(tmp_path):
    """The positive control of the tests below."""
    write_kinds(tmp_path)

    modes = {}
    for path in find_images(tmp_path):
        with Image.open(path) as picture:
            modes[path.name] = picture.mode
            if path.name == "exif.png":
                assert ImageOps.exif_transpose(picture).size != picture.size
    assert modes == {
        "16 bit.png": "I;16",
        "alpha.png": "RGBA",
        "cmyk.tiff": "CMYK",
        "exif.png": "RGB",
        "gray.png": "L",
        "palette.png": "P",
    }


def test_every_kind_of_image_is_predicted_as_its_plain_copy(model, tmp_path):
    copy_of = write_kinds(tmp_path / "kinds")
    for path, pixels in copy_of.items():
        save(tmp_path / "copies" / f"{path.stem}.png", pixels)

    for folder in ("kinds", "copies"):
        arguments = ["predict", str(model), str(tmp_path / folder), "--no-heatmaps"]
        results = ["--maps", "--output", str(tmp_path / f"of {folder}")]
        assert main([*arguments, *results]) == 0

    kinds = predictions_in(tmp_path / "of kinds")
    copies = predictions_in(tmp_path / "of copies")
    for path, pixels in copy_of.items():
        copy = copies[f"{path.stem}.png"]
        assert kinds[path.name]["image_score"] == copy["image_score"], path.name
        anomaly_map = tifffile.imread(tmp_path / f"of kinds/maps/{path.stem}.tiff")
        assert anomaly_map.shape == pixels.shape[:2], path.name


def test_all_kinds_are_trained_on_together(normal_images, tmp_path):
    write_kinds(normal_images)
    output = tmp_path / "part.ead"

    assert main(["train", str(normal_images), "--output", str(output), *FAST]) == 0

    provenance = efficientad.load(output).provenance
    used = provenance["training_images"] | provenance["validation_images"]
    names = {Path(name).name for name in used}
    assert names == {path.name for path in find_images(normal_images)}


# Folders


def test_a_missing_folder(output, tmp_path, capsys):
    folder = tmp_path / "missing"

    sentence = refusal_of(capsys, "train", folder, "--output", output)

    assert f"{folder} does not exist" in sentence


def test_an_empty_folder(output, tmp_path, capsys):
    folder = tmp_path / "empty"
    folder.mkdir()

    sentence = refusal_of(capsys, "train", folder, "--output", output)

    assert f"{folder} holds no images" in sentence


def test_a_file_for_a_folder(normal_images, output, capsys):
    file = normal_images / "000.png"

    sentence = refusal_of(capsys, "train", file, "--output", output)

    assert f"{file} is a file; give the folder" in sentence


def test_a_folder_too_high(parts, output, capsys):
    sentence = refusal_of(capsys, "train", parts.parent, "--output", output)

    assert f"did you mean {parts / 'train' / 'good'}?" in sentence


def test_a_folder_of_test_images(parts, output, capsys):
    folder = parts / "test" / "good"

    sentence = refusal_of(capsys, "train", folder, "--output", output)

    assert "belongs to the test images" in sentence


def test_fewer_than_10_normal_images(tmp_path, output, capsys):
    folder = write_normal_images(tmp_path / "few", n=9)

    sentence = refusal_of(capsys, "train", folder, "--output", output)

    assert "at least 10 normal images were needed" in sentence
    assert output.read_text() == "made earlier"


def test_fewer_than_10_different_normal_images(tmp_path, output, capsys):
    folder = write_normal_images(tmp_path / "few", n=9)
    shutil.copy(folder / "000.png", folder / "copy.png")

    sentence = refusal_of(capsys, "train", folder, "--output", output, *FAST)

    assert "at least 10 different normal images, got 9" in sentence


def test_validation_images_that_are_trained_on(normal_images, output, tmp_path, capsys):
    copy = save(tmp_path / "others" / "parts" / "copy.bmp", pixels_of(3))
    validation = ("--validation", copy.parent)

    sentence = refusal_of(
        capsys, "train", normal_images, "--output", output, *validation, *FAST
    )

    assert f"{copy} is the same picture as {normal_images / '003.png'}" in sentence
    assert output.read_text() == "made earlier"


def test_a_validation_folder_that_is_not_there(normal_images, output, tmp_path, capsys):
    validation = ("--validation", tmp_path / "missing")

    sentence = refusal_of(
        capsys, "train", normal_images, "--output", output, *validation, *FAST
    )

    assert "missing does not exist" in sentence


def test_pretraining_images_that_are_not_there(normal_images, output, tmp_path, capsys):
    natural = ("--pretraining-images", tmp_path / "missing.tar")

    sentence = refusal_of(
        capsys, "train", normal_images, "--output", output, *ONE_STEP, *natural
    )

    assert "missing.tar" in sentence


@pytest.mark.parametrize("verb", ["predict", "evaluate", "calibrate"])
def test_images_that_are_not_there(model, tmp_path, capsys, verb):
    sentence = refusal_of(
        capsys, verb, model, tmp_path / "missing", "--output", tmp_path / "out"
    )

    assert "missing" in sentence
    assert not (tmp_path / "out").exists()


def test_nothing_to_predict(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()

    for paths in ([], [tmp_path / "empty"]):
        sentence = refusal_of(
            capsys, "predict", model, *paths, "--output", tmp_path / "out"
        )
        assert "to predict" in sentence
    assert not (tmp_path / "out").exists()


def test_a_category_without_defects(model, parts, tmp_path, capsys):
    shutil.copytree(parts / "test" / "good", tmp_path / "category" / "test" / "good")

    sentence = refusal_of(
        capsys, "evaluate", model, tmp_path / "category", "--output", tmp_path / "out"
    )

    assert "has no defective ones" in sentence


def test_parts_of_another_seed(tmp_path, capsys):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "drawn.json").write_text('{"seed": 1}')

    sentence = refusal_of(capsys, "demo", "--output", tmp_path)

    assert "parts holds something" in sentence


def test_a_source_network_that_is_not_there(normal_images, tmp_path, capsys):
    sentence = refusal_of(
        capsys,
        *("distill", normal_images, "--source", tmp_path / "missing.safetensors"),
        *("--output", tmp_path / "teacher.safetensors", "--n-held-out", "2"),
    )

    assert "missing.safetensors does not exist" in sentence


# Model files


def write_truncated_model(path, model):
    path.write_bytes(model.read_bytes()[:100_000])


def write_foreign_file(path, _model):
    path.write_bytes(b"PK\x03\x04" + bytes(1000))


def write_foreign_tensors(path, _model):
    save_file({"weight": np.zeros(3)}, path)


def write_empty_model(path, _model):
    path.touch()


def write_teacher(path, _model):
    teachers.save_teacher(PatchDescriptionNetwork("small"), {}, path)


def write_newer_model(path, model):
    tensors, content = tensor_file.read(model, "detector")
    tensor_file.write(path, "detector", tensors, content, version=99)


def write_older_model(path, model):
    tensors, content = tensor_file.read(model, "detector")
    tensor_file.write(path, "detector", tensors, content, version=0)


def write_another_size(path, model):
    tensors, content = tensor_file.read(model, "detector")
    tensor_file.write(path, "detector", tensors, {**content, "size": "medium"})


def write_unknown_size(path, model):
    tensors, content = tensor_file.read(model, "detector")
    tensor_file.write(path, "detector", tensors, {**content, "size": "huge"})


def write_no_calibration(path, model):
    tensors, content = tensor_file.read(model, "detector")
    del content["calibration"]
    tensor_file.write(path, "detector", tensors, content)


def write_foreign_scales(path, model):
    tensors, content = tensor_file.read(model, "detector")
    content["calibration"]["scales"] = "abc"
    tensor_file.write(path, "detector", tensors, content)


UNUSABLE_MODELS = {
    "truncated": (write_truncated_model, "truncated, damaged or something else"),
    "foreign": (write_foreign_file, "truncated, damaged or something else"),
    "empty": (write_empty_model, "truncated, damaged or something else"),
    "of another program": (write_foreign_tensors, "file of another program"),
    "a teacher": (write_teacher, "is a teacher file; needed a detector file"),
    "newer": (write_newer_model, "format 99, this efficientad reads 1 and 2; upd"),
    "older": (write_older_model, "format 0, this efficientad reads 1 and 2; make"),
    "of another size": (write_another_size, "not hold the weights of a medium detect"),
    "of unknown size": (write_unknown_size, "not hold a complete detector"),
    "not calibrated": (write_no_calibration, "not hold a complete detector"),
    "of foreign scales": (write_foreign_scales, "not hold a complete detector"),
    "missing": (lambda _path, _model: None, "no model file at"),
    "a folder": (lambda path, _model: path.mkdir(), "no model file at"),
}


@pytest.mark.parametrize(
    ("write", "words"), UNUSABLE_MODELS.values(), ids=UNUSABLE_MODELS
)
def test_an_unusable_model_is_refused(
    model, normal_images, tmp_path, capsys, write, words
):
    path = tmp_path / "other.ead"
    write(path, model)

    sentence = refusal_of(
        capsys, "predict", path, normal_images, "--output", tmp_path / "out"
    )

    assert words in sentence
    assert str(path) in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("write", [write_truncated_model, write_newer_model])
@pytest.mark.parametrize("verb", ["evaluate", "calibrate"])
def test_every_verb_refuses_an_unusable_model(
    model, parts, tmp_path, capsys, verb, write
):
    path = tmp_path / "other.ead"
    write(path, model)

    sentence = refusal_of(capsys, verb, path, parts, "--output", tmp_path / "out")

    assert str(path) in sentence


def test_a_teacher_of_another_size(normal_images, output, tmp_path, capsys):
    teacher = tmp_path / "teacher.safetensors"
    teachers.save_teacher(PatchDescriptionNetwork("medium"), {}, teacher)
    arguments = ("train", normal_images, "--output", output, "--teacher", teacher)

    sentence = refusal_of(capsys, *arguments, *FAST)

    assert "a teacher of size medium; needed small: give --size medium" in sentence
    assert output.read_text() == "made earlier"


def test_a_truncated_checkpoint(normal_images, output, model, capsys):
    write_truncated_model(output.with_name("part.ead.checkpoint"), model)
    arguments = ("train", normal_images, "--output", output, "--resume", *FAST)

    sentence = refusal_of(capsys, *arguments)

    assert "part.ead.checkpoint is not a readable checkpoint file" in sentence
    assert output.read_text() == "made earlier"


# Training that cannot go on


def test_a_non_finite_loss(normal_images, output, capsys, monkeypatch):
    monkeypatch.setattr(student._Training, "take_step", lambda _: float("nan"))

    sentence = refusal_of(capsys, "train", normal_images, "--output", output, *FAST)

    assert "the loss is not finite" in sentence
    assert output.read_text() == "made earlier"


# Results that cannot be written


@pytest.mark.parametrize("verb", ["train", "calibrate", "predict", "evaluate", "demo"])
def test_an_output_in_a_file(model, parts, normal_images, tmp_path, capsys, verb):
    given = {"train": [normal_images], "evaluate": [model, parts], "demo": []}
    (tmp_path / "file").touch()

    sentence = refusal_of(
        capsys,
        verb,
        *given.get(verb, [model, normal_images]),
        *("--output", tmp_path / "file" / "out.ead"),
    )

    assert "cannot write" in sentence


def test_a_folder_that_may_not_be_entered(parts, output, capsys, monkeypatch):
    def stat(path, **options):
        if path.name == "good":
            raise PermissionError(13, "Permission denied", str(path))
        return plain_stat(path, **options)

    plain_stat = Path.stat
    monkeypatch.setattr(Path, "stat", stat)

    sentence = refusal_of(capsys, "train", parts, "--output", output)

    assert "good (Permission denied); check its permissions" in sentence


def test_a_folder_for_the_file_to_write(normal_images, tmp_path, capsys):
    sentence = refusal_of(capsys, "train", normal_images, "--output", tmp_path)

    assert "is a folder; give the name of a file" in sentence


@pytest.fixture
def fill_disk(monkeypatch):
    """Fill the disk for some files."""
    write_bytes = Path.write_bytes

    def fill_disk_for(name):
        def write(path, content):
            if path != temporary_path(path.with_name(name)):
                return write_bytes(path, content)
            write_bytes(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", write)

    return fill_disk_for


def test_a_full_disk_at_a_checkpoint(normal_images, output, capsys, fill_disk):
    fill_disk("part.ead.checkpoint")

    sentence = refusal_of(capsys, "train", normal_images, "--output", output, *FAST)

    assert "part.ead.checkpoint (No space left on device" in sentence
    assert output.read_text() == "made earlier"


def test_a_full_disk_at_the_end_costs_nothing_but_space(
    normal_images, output, capsys, fill_disk, monkeypatch
):
    arguments = ["train", str(normal_images), "--output", str(output), *FAST]
    fill_disk("part.ead")

    sentence = refusal_of(capsys, *arguments)

    assert "part.ead (No space left on device" in sentence
    assert output.read_text() == "made earlier"
    assert not list(output.parent.glob("*.partial"))
    fill_disk("nothing")
    monkeypatch.setattr(student._Training, "take_step", lambda _: pytest.fail("again"))
    assert main([*arguments, "--resume"]) == 0
    assert efficientad.load(output).calibration.normal_scores


def test_a_full_disk_while_calibrating_anew(model, tmp_path, capsys, fill_disk):
    normal_images = write_normal_images(tmp_path / "others", n=2)
    own = Path(shutil.copy(model, tmp_path / "own.ead"))
    fill_disk("own.ead")

    sentence = refusal_of(capsys, "calibrate", own, normal_images, "--output", own)

    assert "No space left on device" in sentence
    assert own.read_bytes() == model.read_bytes()


@needs_full_disk
@pytest.mark.parametrize("name", ["predictions.csv", "heatmaps/000.png"])
def test_a_full_disk_while_predicting(model, tmp_path, capsys, monkeypatch, name):
    image = save(tmp_path / "000.png", pixels_of(0))
    earlier = tmp_path / "out" / "predictions.csv"
    (earlier.parent / "heatmaps").mkdir(parents=True)
    earlier.write_text("made earlier")
    place = temporary_path(tmp_path / "out" / name)

    def full_from_now_on(path, **settings):
        require_writable(path, **settings)
        if not place.is_symlink():
            place.symlink_to(FULL_DISK)

    monkeypatch.setattr(files, "require_writable", full_from_now_on)

    sentence = refusal_of(capsys, "predict", model, image, "--output", earlier.parent)

    assert f"{name} (No space left on device)" in sentence
    assert earlier.read_text() == "made earlier"
    assert not earlier.with_name("predictions.jsonl").exists()


def test_a_full_disk_while_evaluating(model, parts, tmp_path, capsys, monkeypatch):
    def write(_path, _content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)

    sentence = refusal_of(capsys, "evaluate", model, parts, "--output", tmp_path)

    assert "metrics.json (No space left on device)" in sentence


# Settings


def test_a_model_is_no_device(model, normal_images, capsys):
    sentence = refusal_of(
        capsys, "calibrate", model, normal_images, "--output", "/dev/null"
    )

    assert "/dev/null is no file; give the name of a file to write" in sentence
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (("--steps", "0"), "steps must be a whole number from 1 to 10000000, got 0"),
        (
            ("--validation-share", "1.5"),
            "validation_share must be a finite number from 1e-06 to 0.999999, got 1.5",
        ),
        (
            ("--seed", "-1"),
            "seed must be a whole number from 0 to 1844674407370955161",
        ),
        (
            ("--local-channels", "100"),
            "local_channels must be a whole number from 32 to 384 in steps of 32, got ",
        ),
    ],
)
def test_settings_out_of_range_end_with_exit_code_2(
    normal_images, output, capsys, setting, words
):
    code = main(["train", str(normal_images), "--output", str(output), *setting])

    (sentence,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert words in sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(model, normal_images, tmp_path, capsys):
    arguments = ("predict", model, normal_images, "--output", tmp_path / "out")

    sentence = refusal_of(capsys, *arguments, "--device", "cuda")

    assert "finds no CUDA device; use cpu" in sentence
