"""Another decision for a finished file, exported or not."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import efficientad
from efficientad.calibration import threshold as threshold_module
from efficientad.calibration.known_defects import wilson_interval
from efficientad.calibration.rule_options import RuleOptions
from efficientad.calibration.threshold import threshold
from efficientad.cli.main import main
from efficientad.errors import ConfigError, DatasetError, ImageError, StorageError
from efficientad.evaluation.evaluate import evaluate
from efficientad.images.rgb import image_hash, read_image
from efficientad.model_files import export_metadata as metadata

# A decision is written into both exported forms by the same lines.
every_form = pytest.mark.parametrize("model", [".onnx", ".xml", ".ead"], indirect=True)


@pytest.fixture(params=[".onnx", ".ead"])
def model(request, exports, predictor, tmp_path):
    path = tmp_path / f"part{request.param}"
    if request.param == ".ead":
        efficientad.save(predictor, path)
        return path
    for source in exports["onnxruntime"].parent.glob("part.*"):
        shutil.copy(source, tmp_path)
    return path


@every_form
def test_with_nothing_to_change_a_file_is_only_read(model, predictor):
    before = model.read_bytes()

    assert threshold(model) == predictor.calibration

    assert model.read_bytes() == before


def test_a_threshold_set_by_hand_decides(model, photograph):
    before = threshold(model)

    threshold(model, at=0.17)

    changed = threshold(model)
    assert changed.threshold == 0.17
    assert changed.normal_scores == before.normal_scores
    assert efficientad.load(model).predict(photograph(50, 50)).threshold == 0.17


def test_a_budget_moves_the_threshold_along_the_normal_scores(model):
    before = threshold(model)

    threshold(model, false_alarm_budget=0.5)

    assert before.threshold == before.normal_scores[2]
    assert threshold(model).threshold == before.normal_scores[1]


@pytest.fixture
def unchanged(model, exported):
    """Predictor of the file as it is before the change."""
    engines = {".onnx": "onnxruntime", ".xml": "openvino"}
    if model.suffix in engines:
        return exported[engines[model.suffix]]
    return efficientad.load(model)


@every_form
def test_other_normal_images_give_another_table(model, unchanged, photograph, tmp_path):
    folder = tmp_path / "normal"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(photograph(60, 60, seed)).save(folder / f"{seed}.png")
    score_of = {p: unchanged.predict(p).image_score for p in folder.iterdir()}
    *_, strangest = sorted(folder.iterdir(), key=score_of.__getitem__)

    changed = threshold(model, images=folder)

    assert list(changed.normal_scores) == pytest.approx(sorted(score_of.values()))
    assert threshold(model) == changed
    opened = efficientad.load(model)
    assert opened.predict(strangest).p_value < 1
    remembered = opened.provenance["decision_images"]
    assert remembered == {
        str(path): image_hash(read_image(path)) for path in folder.iterdir()
    }


def test_an_evaluation_knows_the_images_of_the_decision(model, photograph, tmp_path):
    for name in ("normal", "parts/train/good", "parts/test/good", "parts/test/bad"):
        (tmp_path / name).mkdir(parents=True)
        seed = 0 if name in {"normal", "parts/test/good"} else len(name)
        image = Image.fromarray(photograph(60, 60, seed))
        image.save(tmp_path / name / f"{seed}.png")
    threshold(model, images=tmp_path / "normal")

    with pytest.raises(DatasetError, match="calibrated"):
        evaluate(efficientad.load(model), tmp_path / "parts")


def test_nothing_is_predicted_for_a_file_that_cannot_be_written(
    model, photograph, tmp_path, monkeypatch
):
    folder = tmp_path / "normal"
    folder.mkdir()
    Image.fromarray(photograph(60, 60)).save(folder / "a.png")
    (tmp_path / "file").touch()
    monkeypatch.setattr(threshold_module, "read_other_images", pytest.fail)

    with pytest.raises(StorageError, match="choose another output"):
        threshold(model, tmp_path / "file" / model.name, images=folder)


def test_copies_of_a_normal_image_count_once(model, photograph, tmp_path):
    folder = tmp_path / "normal"
    folder.mkdir()
    for name, seed in (("a", 0), ("b", 1), ("again", 0)):
        Image.fromarray(photograph(60, 60, seed)).save(folder / f"{name}.png")

    assert len(threshold(model, images=folder).normal_scores) == 2


def test_the_command_line_shows_and_changes(model, capsys):
    other = model.with_name(f"other{model.suffix}")

    assert main(["threshold", str(model)]) == 0
    assert capsys.readouterr().out.startswith("threshold 0.2\n3 held-out")
    given = ["threshold", str(model), "--at", "0.5", "--output", str(other)]
    assert main(given) == 0
    assert "threshold 0.5\n" in capsys.readouterr().out
    assert threshold(model).threshold != 0.5
    assert threshold(other).threshold == 0.5


@pytest.fixture
def export(exports, tmp_path):
    path = tmp_path / "part.onnx"
    shutil.copy(exports["onnxruntime"], path)
    return path


def test_images_that_were_trained_on_are_refused(export, photograph, tmp_path):
    folder = tmp_path / "normal"
    folder.mkdir()
    image = photograph(60, 60)
    Image.fromarray(image).save(folder / "a.png")
    trained = {"training_images": {"b.png": image_hash(image)}}
    metadata.write(export, replace(metadata.read(export), provenance=trained))

    with pytest.raises(DatasetError, match=r"the same picture as b\.png"):
        threshold(export, images=folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "other.onnx"}, "give what shall change"),
        ({"at": float("nan")}, "must be a finite number, got nan"),
        ({"false_alarm_budget": 1.5}, r"number from 1e-06 to 0\.5, got 1\.5"),
    ],
)
def test_a_senseless_change_is_refused_and_the_file_stays(
    export, monkeypatch, given, message
):
    monkeypatch.chdir(export.parent)
    before = export.read_bytes()

    with pytest.raises(ConfigError, match=message):
        threshold(export, **given)

    assert export.read_bytes() == before
    assert list(export.parent.iterdir()) == [export]


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (
            -1.0,
            "flags 3 of 3 held-out normal images, whose scores reach 0.2; give a hi",
        ),
        (0.12, "flags 2 of 3 held-out normal images"),
        (5.0, "is more than 10 times the scores of all held-out normal images"),
    ],
)
def test_a_threshold_that_is_no_decision_needs_force(
    predictor, tmp_path, capsys, at, words
):
    model = tmp_path / "part.ead"
    efficientad.save(predictor, model)
    before = model.read_bytes()

    assert main(["threshold", str(model), "--at", str(at)]) == 2

    error = capsys.readouterr().err
    assert f"threshold {at:g} {words}" in error
    assert error.endswith("or --force\n")
    assert model.read_bytes() == before
    assert main(["threshold", str(model), "--at", str(at), "--force"]) == 0
    assert threshold(model).threshold == at


def test_another_ending_is_refused(export, tmp_path):
    with pytest.raises(ConfigError, match=r"name it b\.onnx"):
        threshold(export, tmp_path / "b.xml", at=0.5)


@pytest.fixture
def normal(photograph, tmp_path):
    """A folder of normal images of 90 x 60 pixels, and a region that is their left."""
    folder = tmp_path / "good"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(photograph(60, 90, seed)).save(folder / f"{seed}.png")
    region = tmp_path / "left.png"
    pixels = np.zeros((60, 90), np.uint8)
    pixels[:, :45] = 255
    Image.fromarray(pixels).save(region)
    return folder, region


def test_a_region_is_set_without_training(model, normal):
    folder, region = normal
    whole = threshold(model, images=folder)

    left = threshold(model, images=folder, rule=RuleOptions(region=region))

    assert threshold(model) == left
    assert left.normal_scores != whole.normal_scores
    predicted = efficientad.load(model).predict(folder / "0.png")
    scores = np.array(left.normal_scores)
    assert abs(scores - predicted.image_score).min() < 1e-4
    # Other images keep the region.
    assert threshold(model, images=folder).rule == left.rule


def test_a_region_of_any_file_gives_images_of_another_aspect_one_sentence(
    model, normal, photograph
):
    folder, region = normal
    threshold(model, images=folder, rule=RuleOptions(region=region))

    with pytest.raises(
        ImageError, match=r"1\.5 times their height, got one of 60 x 60"
    ):
        efficientad.load(model).predict(photograph(60, 60))


def test_other_normal_images_need_the_aspect_of_the_region(
    model, normal, photograph, tmp_path
):
    folder, region = normal
    threshold(model, images=folder, rule=RuleOptions(region=region))
    before, square = model.read_bytes(), tmp_path / "square"
    square.mkdir()
    Image.fromarray(photograph(60, 60)).save(square / "0.png")

    problem = r"1\.5 times their height, got one of 60 x 60"
    with pytest.raises(ImageError, match=problem):
        threshold(model, images=square)
    assert model.read_bytes() == before
    if model.suffix == ".ead":
        with pytest.raises(ImageError, match=problem):
            efficientad.calibrate(efficientad.load(model), square)


def test_a_least_area_lowers_the_scores(model, normal):
    folder, _ = normal
    before = threshold(model, images=folder)

    after = threshold(model, images=folder, rule=RuleOptions(min_area=300))

    pairs = zip(after.normal_scores, before.normal_scores, strict=True)
    assert all(one < other for one, other in pairs)
    assert efficientad.load(model).calibration.rule.min_area == 300 / (60 * 90)
    assert threshold(model, images=folder, rule=RuleOptions(min_area=0)).rule.is_plain


def test_an_unsure_band_lies_below_the_threshold(model, photograph):
    threshold(model, false_alarm_budget=0.3, unsure_budget=0.5)

    changed = threshold(model)
    assert changed.unsure_threshold is not None
    assert changed.unsure_threshold < changed.threshold
    score = efficientad.load(model).predict(photograph(50, 50)).image_score
    threshold(model, at=score)
    assert efficientad.load(model).predict(photograph(50, 50)).decision == "unsure"
    assert threshold(model, unsure_budget=0).unsure_threshold is None


@every_form
def test_a_file_with_a_rule_is_of_a_later_format(model, normal):
    folder, region = normal

    def versions():
        text = model.read_bytes()
        marks = b'"efficientad_version":"2"', b'"format":4', b"&quot;format&quot;:4"
        return any(mark in text.replace(b": ", b":") for mark in marks)

    assert not versions()
    threshold(model, images=folder, rule=RuleOptions(region=region))
    assert versions()
    white = region.with_name("white.png")
    Image.new("L", (90, 60), 255).save(white)
    threshold(model, images=folder, rule=RuleOptions(region=white))
    assert not versions()


def test_a_rule_without_images_gets_one_sentence(model):
    with pytest.raises(ConfigError, match="give --images as well"):
        threshold(model, rule=RuleOptions(min_area=5))
    with pytest.raises(ConfigError, match="the unsure budget holds the"):
        threshold(model, false_alarm_budget=0.4, unsure_budget=0.2)


def test_known_defects_show_what_each_budget_finds(model, normal, capsys):
    folder, _ = normal
    before = model.read_bytes()
    (folder / "film.avi").touch()

    assert main(["threshold", str(model), "--defects", str(folder)]) == 0

    printed = capsys.readouterr().out
    assert "of 2 (" in printed
    assert ".avi files (1)" in printed
    assert "95 % confidence intervals" in printed
    assert model.read_bytes() == before


def test_intervals_are_wilsons():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_a_second_session_of_the_other_images_holds_the_threshold(
    model, photograph, tmp_path
):
    folder = tmp_path / "normal"
    folder.mkdir()
    for seed in range(3):
        Image.fromarray(photograph(50 + seed, 50)).save(folder / f"{seed}.png")
    steady = replace(
        threshold(model),
        false_alarm_budget=0.05,
        threshold_rule="steady",
        second_session={"blur": (9.0,)},
    )
    if model.suffix == ".ead":
        efficientad.save(replace(efficientad.load(model), calibration=steady), model)
    else:
        metadata.write(model, replace(metadata.read(model), calibration=steady))

    changed = threshold(model, images=folder)

    highest = max(max(scores) for scores in changed.second_session.values())
    assert changed.normal_scores[-1] < highest <= changed.threshold < 9
