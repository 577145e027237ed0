"""A detector file of wrong entries is refused, whoever wrote it."""

import copy
import json
import resource
from dataclasses import asdict

import numpy as np
import pytest
import torch

from efficientad.decisions.decision import Calibration, TermScale
from efficientad.errors import ModelFileError
from efficientad.method.detector import Detector
from efficientad.method.maps import MapScale
from efficientad.model_files import container
from efficientad.model_files.calibration_entry import read_calibration
from efficientad.model_files.detector_file import (
    DetectorFile,
    read_detector,
    write_detector,
)
from efficientad.model_files.json_text import read_provenance
from efficientad.model_files.tensors import as_arrays

CALIBRATION = Calibration(
    dict.fromkeys(("local", "global"), MapScale(0.5, 2.0)),
    (0.1, 0.2),
    terms={"composition": TermScale(1.0, 0.1)},
    threshold_rule="estimate",
    training_scores=(0.05, 0.1),
    second_session={"darker": (0.2, 0.1)},
)
PROVENANCE = {
    "config": {"seed": 0},
    "recipe": {"steps": 10, "batch_size": 2, "optimizer": "muon"},
    "teacher": {"hash": "ab"},
    "training_images": {"a.png": "cd"},
    "validation_appearance": {"brightness": [1.0, 2]},
    "notes": ["anything", {"else": None}],
}


@pytest.fixture(scope="module")
def written(make_detector, tmp_path_factory):
    """Tensors and content of a small detector's file."""
    path = tmp_path_factory.mktemp("detector") / "part.ead"
    calibration = Calibration(CALIBRATION.scales, (0.1, 0.2))
    weights = as_arrays(make_detector(n_local=32, n_global=32).state_dict())
    write_detector(DetectorFile(weights, "small", calibration, PROVENANCE), path)
    return container.read(path, "detector")


def refusal_of(tensors, content, path):
    container.write(path, "detector", tensors, content)
    with pytest.raises(ModelFileError) as refused:
        read_detector(path)
    return str(refused.value)


def test_a_whole_file_is_read_to_the_bit(written, make_detector, tmp_path):
    tensors, content = written
    container.write(tmp_path / "part.ead", "detector", tensors, content)

    found = read_detector(tmp_path / "part.ead")

    expected = make_detector(n_local=32, n_global=32).state_dict()
    detector = Detector.from_arrays(found.weights, found.size)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, expected[name]), name
        assert value.device.type == "cpu"
    assert found.provenance == PROVENANCE
    assert not any(p.requires_grad for p in detector.parameters())
    assert not detector.training


@pytest.mark.parametrize("entry", ["provenance", "calibration", "size"])
@pytest.mark.parametrize("value", [None, 3, "text", [1], {"scales": 1}, True])
def test_entries_of_another_type_are_refused(written, tmp_path, entry, value):
    tensors, content = written
    if entry == "provenance" and isinstance(value, dict):
        value = {"training_images": ["a.png"]}

    sentence = refusal_of(tensors, {**content, entry: value}, tmp_path / "part.ead")

    assert "does not hold a complete detector (bad entry:" in sentence


def test_a_long_bias_takes_no_memory_before_it_is_refused(written, tmp_path):
    tensors, content = dict(written[0]), written[1]
    tensors["student.convolutions.3.bias"] = np.zeros(300_032)
    tensors["autoencoder.describe.bias"] = np.zeros(300_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    sentence = refusal_of(tensors, content, tmp_path / "part.ead")

    assert "does not hold the weights of a small detector" in sentence
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("teacher_std", np.zeros(32)),
        ("teacher_mean", np.array(0.0)),
        ("composition_axes", np.zeros((1, 5))),
    ],
)
def test_statistics_that_cannot_be_are_refused(written, tmp_path, name, value):
    tensors, content = {**written[0], name: value}, written[1]
    if name.startswith("composition"):
        for other in ("composition_mean", "composition_scale"):
            tensors[other] = np.zeros(5)

    sentence = refusal_of(tensors, content, tmp_path / "part.ead")

    is_of_shape = name.startswith("composition")
    what = "the weights of a small detector" if is_of_shape else "a complete detector"
    assert f"does not hold {what}" in sentence


def test_a_term_without_its_gaussian_is_refused(written, tmp_path):
    calibration = json.loads(json.dumps(asdict(CALIBRATION)))
    content = {**written[1], "calibration": calibration}

    sentence = refusal_of(written[0], content, tmp_path / "part.ead")

    assert "a term without its Gaussian" in sentence


def changed(entry, place, value):
    """Return a JSON object with another value at a place, keys from the outside in."""
    made = copy.deepcopy(entry)
    *outer, last = place
    inner = made
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return made


def test_the_entries_that_are_changed_below_are_whole():
    entry = json.loads(json.dumps(asdict(CALIBRATION)))

    assert read_calibration(entry) == CALIBRATION
    assert read_provenance(PROVENANCE) == PROVENANCE
    assert read_provenance({}) == {}


@pytest.mark.parametrize("value", ["0.1", None, True, [], {}, "text"])
@pytest.mark.parametrize(
    "place",
    [
        ("scales",),
        ("scales", "local"),
        ("scales", "local", "high"),
        ("scales", "global", "low"),
        ("scales", "third"),
        ("normal_scores",),
        ("normal_scores", 0),
        ("training_scores", 1),
        ("false_alarm_budget",),
        ("terms", "composition"),
        ("terms", "composition", "slope"),
        ("terms", "another"),
        ("threshold_rule",),
        ("second_session", "darker"),
        ("second_session", "darker", 0),
    ],
)
def test_a_calibration_of_other_types_is_refused(place, value):
    entry = json.loads(json.dumps(asdict(CALIBRATION)))

    with pytest.raises((KeyError, TypeError, ValueError)):
        read_calibration(changed(entry, place, value))


@pytest.mark.parametrize("value", ["true", None, 0.5, []])
def test_whether_maps_count_is_true_or_false(value):
    entry = json.loads(json.dumps(asdict(CALIBRATION))) | {"score_has_map": value}

    with pytest.raises((TypeError, ValueError), match="score_has_map"):
        read_calibration(entry)


@pytest.mark.parametrize("value", [None, True, 2.5, ["text"]])
@pytest.mark.parametrize(
    "place",
    [
        ("config",),
        ("recipe",),
        ("recipe", "steps"),
        ("teacher",),
        ("training_images",),
        ("training_images", "a.png"),
        ("validation_images",),
        ("validation_appearance",),
        ("validation_appearance", "brightness"),
    ],
)
def test_a_provenance_of_other_types_is_refused(place, value):
    with pytest.raises(TypeError):
        read_provenance(changed(PROVENANCE, place, value))
