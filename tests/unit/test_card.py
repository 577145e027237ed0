"""The model card of a detector or exported file."""

import json

import pytest

import efficientad
from efficientad.cli import main as cli
from efficientad.errors import ModelFileError, ResultError
from efficientad.storage import file_hash

PROVENANCE = {
    "training_images": {f"/data/bottle|3/train/good/{n}.png": "" for n in range(54)},
    "validation_images": {"/data/bottle|3/train/good/60.png": ""},
    "recipe": {"steps": 1000, "p_hard": 0.999, "quick": {"a": 1}},
    "preset": "quick",
    "seed": 3,
    "teacher": {"hash": "abc123"},
    "made_on": "2026-11-29",
    "efficientad": "0.1.0",
}
METRICS = {
    "category": "bottle",
    "image_au_roc": 0.98765,
    "n_normal": 41,
    "n_defect": 119,
    "n_normal_flagged": 1,
    "n_defects_found": 94,
}


@pytest.fixture(scope="module")
def saved(make_detector, joined, tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "part.ead"
    efficientad.save(joined(make_detector(), provenance=PROVENANCE), path)
    return path


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(METRICS))
    return path


def test_a_card_tells_data_settings_decision_and_limits(saved):
    lines = efficientad.card(saved).splitlines()

    assert lines[0] == "# Model card: bottle|3"
    assert lines[2] == (
        "An anomaly detector, trained on 54 normal images of 'bottle|3' on 2026-11-29."
    )
    for line in (
        f"| SHA-256 | {file_hash(saved)} |",
        "| method | EfficientAD, size small |",
        "| product | bottle\\|3 |",
        "| training images | 54 |",
        "| held-out normal images | 1 |",
        "| teacher, SHA-256 | abc123 |",
        "| preset | quick |",
        "| steps | 1000 |",
        "| p hard | 0.999 |",
        "Not measured. `efficientad evaluate` writes the metrics.json for it.",
    ):
        assert line in lines
    assert [line for line in lines if line.startswith("## ")] == [
        *("## Model", "## Data", "## Settings", "## Decision", "## Metrics"),
        "## Limits",
    ]
    assert any(line.startswith("Scores above ") for line in lines)


def test_a_card_has_the_metrics_of_an_evaluation(saved, metrics):
    text = efficientad.card(saved, metrics=metrics)

    assert "Found 94 of 119 defects, 1 of 41 false alarms, on the test images" in text
    assert "| image_au_roc | 0.9877 |" in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"n_defect": 3}', "[" * 5000])
def test_metrics_of_another_kind_are_refused(saved, metrics, content):
    metrics.write_text(content)

    with pytest.raises(ResultError, match=r"needs the metrics\.json of an"):
        efficientad.card(saved, metrics=metrics)


def test_metrics_that_are_missing_are_refused(saved, tmp_path):
    with pytest.raises(ResultError, match="No such file"):
        efficientad.card(saved, metrics=tmp_path / "gone.json")


def test_a_card_of_no_model_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="no model file at"):
        efficientad.card(tmp_path / "gone.ead")


def test_an_export_has_a_card(exports):
    text = efficientad.card(exports["onnxruntime"])

    assert text.startswith("# Model card: part\n")
    assert "An anomaly detector, of unknown training images." in text


def test_the_command_line_prints_the_card(saved, metrics, capsys):
    assert cli.main(["card", str(saved), "--metrics", str(metrics)]) == 0

    assert capsys.readouterr().out == efficientad.card(saved, metrics=metrics)
