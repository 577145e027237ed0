"""Another decision for a finished file, exported or not."""

import shutil

import pytest
from efficientad.inspection.decision import change_decision, read_decision
from efficientad.inspection.exported_predictor import ExportedPredictor
from PIL import Image

from efficientad.cli.main import main
from efficientad.errors import ConfigError, DatasetError, StorageError
from efficientad.evaluation.evaluate import evaluate
from efficientad.images.rgb import image_hash, read_image
from efficientad.inspection import decision as decision_file
from efficientad.inspection.opening import load_predictor
from efficientad.method.detector import Detector
from efficientad.model_files import detector_file as model_file


@pytest.fixture(params=[".onnx", ".xml", ".ead"])
def model(request, exports, judging_detector, tmp_path):
    path = tmp_path / f"part{request.param}"
    if request.param == ".ead":
        model_file.save(judging_detector, path)
        return path
    for source in exports["onnxruntime"].parent.glob("part.*"):
        shutil.copy(source, tmp_path)
    return path


def test_a_threshold_set_by_hand_decides(model, photograph):
    before = read_decision(model)

    change_decision(model, threshold=123.0)

    changed = read_decision(model)
    assert changed.threshold == 123.0
    assert changed.normal_scores == before.normal_scores
    assert load_predictor(model).predict(photograph(50, 50)).threshold == 123.0


def test_a_budget_moves_the_threshold_along_the_normal_scores(model):
    before = read_decision(model)

    change_decision(model, false_alarm_budget=0.6)

    assert before.threshold == before.normal_scores[2]
    assert read_decision(model).threshold == before.normal_scores[1]


@pytest.fixture
def unchanged(model, predictors):
    """What the file says before the change."""
    engines = {".onnx": "onnxruntime", ".xml": "openvino"}
    if model.suffix in engines:
        return predictors[engines[model.suffix]]
    return load_predictor(model)


def test_other_normal_images_give_another_table(model, unchanged, photograph, tmp_path):
    folder = tmp_path / "normal"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(photograph(60, 60, seed)).save(folder / f"{seed}.png")
    score_of = {p: unchanged.predict(p).image_score for p in folder.iterdir()}
    *_, strangest = sorted(folder.iterdir(), key=score_of.__getitem__)

    changed = change_decision(model, images=folder)

    assert list(changed.normal_scores) == pytest.approx(sorted(score_of.values()))
    assert read_decision(model) == changed
    assert load_predictor(model).predict(strangest).p_value < 1
    judging = load_predictor(model)
    assert isinstance(judging, (Detector, ExportedPredictor))
    remembered = judging.provenance["decision_images"]
    assert remembered == {
        str(path): image_hash(read_image(path)) for path in folder.iterdir()
    }


def test_an_evaluation_knows_the_images_of_the_decision(model, photograph, tmp_path):
    for name in ("normal", "parts/train/good", "parts/test/good", "parts/test/bad"):
        (tmp_path / name).mkdir(parents=True)
        seed = 0 if name in {"normal", "parts/test/good"} else len(name)
        image = Image.fromarray(photograph(60, 60, seed))
        image.save(tmp_path / name / f"{seed}.png")
    change_decision(model, images=tmp_path / "normal")

    with pytest.raises(DatasetError, match="calibrated"):
        evaluate(load_predictor(model), tmp_path / "parts")


def test_nothing_is_judged_for_a_file_that_cannot_be_written(
    model, photograph, tmp_path, monkeypatch
):
    folder = tmp_path / "normal"
    folder.mkdir()
    Image.fromarray(photograph(60, 60)).save(folder / "a.png")
    (tmp_path / "file").touch()
    monkeypatch.setattr(decision_file, "normal_image_paths", pytest.fail)

    with pytest.raises(StorageError, match="choose another output"):
        change_decision(model, tmp_path / "file" / model.name, images=folder)


def test_copies_of_a_normal_image_count_once(model, photograph, tmp_path):
    folder = tmp_path / "normal"
    folder.mkdir()
    for name, seed in (("a", 0), ("b", 1), ("again", 0)):
        Image.fromarray(photograph(60, 60, seed)).save(folder / f"{name}.png")

    assert len(change_decision(model, images=folder).normal_scores) == 2


def test_the_command_line_shows_and_changes(model, capsys):
    other = model.with_name(f"other{model.suffix}")

    assert main(["threshold", str(model)]) == 0
    assert capsys.readouterr().out.startswith("threshold 0.2\n3 held-out")
    given = ["threshold", str(model), "--at", "0.5", "--output", str(other)]
    assert main(given) == 0
    assert "threshold 0.5\n" in capsys.readouterr().out
    assert read_decision(model).threshold != 0.5
    assert read_decision(other).threshold == 0.5


@pytest.fixture
def exported(exports, tmp_path):
    path = tmp_path / "part.onnx"
    shutil.copy(exports["onnxruntime"], path)
    return path


def test_images_that_were_trained_on_are_refused(exported, photograph, tmp_path):
    from dataclasses import replace

    from efficientad.model_files import export_metadata as metadata

    folder = tmp_path / "normal"
    folder.mkdir()
    image = photograph(60, 60)
    Image.fromarray(image).save(folder / "a.png")
    trained = {"training_images": {"b.png": image_hash(image)}}
    metadata.write(exported, replace(metadata.read(exported), provenance=trained))

    with pytest.raises(DatasetError, match=r"the same picture as b\.png"):
        change_decision(exported, images=folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "say what shall change"),
        ({"threshold": float("nan")}, "must be a finite number, got nan"),
        ({"false_alarm_budget": 1.5}, r"must be in \(0, 1\), got 1\.5"),
    ],
)
def test_a_senseless_change_is_refused_and_the_file_stays(exported, given, message):
    before = exported.read_bytes()

    with pytest.raises(ConfigError, match=message):
        change_decision(exported, **given)

    assert exported.read_bytes() == before


def test_another_ending_is_refused(exported, tmp_path):
    with pytest.raises(ConfigError, match=r"name it b\.onnx"):
        change_decision(exported, tmp_path / "b.xml", threshold=0.5)
