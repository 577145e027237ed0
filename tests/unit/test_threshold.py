"""Another decision for a finished file, exported or not."""

import shutil
from dataclasses import replace

import pytest
from PIL import Image

import efficientad
from efficientad.cli.main import main
from efficientad.errors import ConfigError, DatasetError, StorageError
from efficientad.evaluation.evaluate import evaluate
from efficientad.images.rgb import image_hash, read_image
from efficientad.inspection import threshold as threshold_module
from efficientad.inspection.threshold import threshold
from efficientad.model_files import export_metadata as metadata


@pytest.fixture(params=[".onnx", ".xml", ".ead"])
def model(request, exports, predictor, tmp_path):
    path = tmp_path / f"part{request.param}"
    if request.param == ".ead":
        efficientad.save(predictor, path)
        return path
    for source in exports["onnxruntime"].parent.glob("part.*"):
        shutil.copy(source, tmp_path)
    return path


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
    monkeypatch.setattr(threshold_module, "normal_image_paths", pytest.fail)

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


def test_other_scores_of_an_export_of_format_2_are_those_of_its_grids(
    export, exported, photograph, tmp_path
):
    folder = tmp_path / "normal"
    folder.mkdir()
    Image.fromarray(photograph(60, 60)).save(folder / "a.png")
    metadata.write(export, replace(metadata.read(export), format=2))

    changed = threshold(export, images=folder)

    expected = exported["onnxruntime"].predict(folder / "a.png").image_score
    assert changed.normal_scores == pytest.approx((expected,))
    assert metadata.read(export).format == 2
