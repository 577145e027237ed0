"""Replacing a shipped teacher, in a copy of the repository."""

import json

import numpy as np
import pytest
import torch

from efficientad.errors import ModelFileError
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.model_files import container as tensor_file
from efficientad.model_files import teachers
from lab.experiments.teachers import ship

FACTS = {
    "settings": {
        "source": "resnet50.safetensors",
        "preset": "quick",
        "steps": 5000,
        "batch_size": 8,
        "learning_rate": 0.003,
        "rate_schedule": "cosine",
        "optimizer": "muon",
        "reduction": "mean",
        "window_cells": 24,
        "n_held_out": 100,
        "seed": 0,
    },
    "source_hash": "abc",
    "images": "photographs (8000 images)",
    "n_images": 8000,
    "n_steps": 5000,
    "explained_variance": 0.4567,
    "explained_variance_quartiles": [0.1, 0.2, 0.4, 0.6, 0.9],
    "hours": 2.5,
    "start": {"n_steps": 900, "hours": 0.5, "explained_variance": 0.3},
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A page with marks for a teacher, and a package that ships none."""
    for folder in ("docs", ship.LOGS, "weights"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs" / "teachers.md").write_text(
        "# T\n\n<!-- teacher: small -->\n\nold\n\n<!-- end of teacher -->\n\nrest\n"
    )
    monkeypatch.setattr(teachers, "weights_folder", lambda: tmp_path / "weights")
    return tmp_path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("new") / "new.safetensors"
    teachers.save_teacher(PatchDescriptionNetwork("small"), FACTS, path)
    write_log(path)
    return path


def write_log(path, **changes):
    line = {"step": FACTS["n_steps"], "explained_variance": FACTS["explained_variance"]}
    log = path.with_name(f"{path.name}.jsonl")
    log.write_text('{"step": 200}\n' + json.dumps(line | changes) + "\n")
    return log.read_text()


def test_ship_replaces_weights_hash_log_and_table(repository, teacher):
    target = ship.ship(teacher, {"source": "ResNet-50, MIT"}, repository)

    assert target == repository / "weights" / "teacher_small.safetensors"
    shipped = teachers.open_teacher("small")
    assert shipped.provenance["source"] == "ResNet-50, MIT"
    assert shipped.provenance["commit"]
    page = (repository / "docs" / "teachers.md").read_text()
    assert "seed 0, from a teacher of 900 steps, 0.50 hours and an" in page
    hashes = json.loads((repository / "weights" / "hashes.json").read_text())
    assert hashes == {target.name: shipped.file_hash}
    for name, value in shipped.network.state_dict().items():
        assert torch.equal(value, value.half().float()), name
    page = (repository / "docs" / "teachers.md").read_text()
    assert "old" not in page
    assert "| source network | ResNet-50, MIT |" in page
    assert "| 0.457; over the channels, least, quartiles and most: 0.10, 0.20," in page
    assert page.endswith("<!-- end of teacher -->\n\nrest\n")
    log = repository / ship.LOGS / "teacher_small.jsonl"
    assert log.read_text() == write_log(teacher)


def test_facts_of_the_same_source_are_kept_a_second_time(repository, teacher):
    ship.ship(teacher, {"source": "ResNet-50, MIT"}, repository)
    ship.ship(teacher, {"note": "again"}, repository)

    facts = teachers.open_teacher("small").provenance
    assert facts["source"] == "ResNet-50, MIT"
    assert facts["note"] == "again"


def test_facts_of_another_source_are_not_kept(repository, teacher, tmp_path):
    ship.ship(teacher, {"source": "ResNet-50, MIT"}, repository)
    other = tmp_path / "other.safetensors"
    teachers.save_teacher(
        PatchDescriptionNetwork("small"), {**FACTS, "source_hash": "def"}, other
    )
    write_log(other)
    ship.ship(other, {}, repository)

    assert "source" not in teachers.open_teacher("small").provenance


def test_facts_of_the_file_win(repository, teacher, tmp_path):
    ship.ship(teacher, {"hardware": "two cores"}, repository)
    other = tmp_path / "other.safetensors"
    made_with = {"commit": "0123456789abcdef", "hardware": "one GPU"}
    teachers.save_teacher(PatchDescriptionNetwork("small"), FACTS | made_with, other)
    write_log(other)
    ship.ship(other, {}, repository)

    facts = teachers.open_teacher("small").provenance
    assert {name: facts[name] for name in made_with} == made_with
    page = (repository / "docs" / "teachers.md").read_text()
    assert "| hardware | one GPU; 2.50 hours of steps |" in page
    assert "| commit | `012345678` |" in page


def test_the_command_names_what_is_left_to_do(repository, teacher, capsys, monkeypatch):
    monkeypatch.setattr(ship, "REPOSITORY", repository)

    assert ship.main([str(teacher)]) == 0

    told = capsys.readouterr().out
    assert "left to do by hand: the prose around the table in docs/teachers.md" in told
    assert "docs/teacher_figure.png with its record" in told


def test_a_file_that_is_no_teacher_changes_nothing(repository, tmp_path, capsys):
    path = tmp_path / "no.safetensors"
    tensor_file.write(path, "teacher", {"a": np.zeros(1)}, {"size": "small"})
    before = sorted(repository.rglob("*"))

    assert ship.main([str(path)]) == 2
    assert "does not hold the weights of a small teacher" in capsys.readouterr().err
    assert sorted(repository.rglob("*")) == before
    with pytest.raises(ModelFileError):
        teachers.open_teacher("small")


def nothing_changes(repository, path, capsys):
    """Return the error by which a teacher is refused."""
    files = [f for f in repository.rglob("*") if f.is_file()]
    before = {f: f.read_bytes() for f in files}
    ship.REPOSITORY, kept = repository, ship.REPOSITORY
    try:
        assert ship.main([str(path)]) == 2
    finally:
        ship.REPOSITORY = kept
    files = [f for f in repository.rglob("*") if f.is_file()]
    assert {f: f.read_bytes() for f in files} == before
    return capsys.readouterr().err


def test_a_page_without_marks_changes_nothing(repository, teacher, capsys):
    (repository / "docs" / "teachers.md").write_text("# Nothing here\n")

    assert "needs the marks" in nothing_changes(repository, teacher, capsys)


@pytest.mark.parametrize("changes", [{"step": 1500}, {"explained_variance": 0.3}, None])
def test_the_log_must_be_that_of_the_teacher(repository, tmp_path, capsys, changes):
    other = tmp_path / "elsewhere" / "other.safetensors"
    teachers.save_teacher(PatchDescriptionNetwork("small"), FACTS, other)
    if changes is not None:
        write_log(other, **changes)

    sentence = nothing_changes(repository, other, capsys)

    assert "other.safetensors.jsonl" in sentence


def test_a_teacher_that_nobody_distilled_is_not_shipped(repository, tmp_path, capsys):
    other = tmp_path / "elsewhere" / "other.safetensors"
    teachers.save_teacher(PatchDescriptionNetwork("small"), {"n_steps": 0}, other)

    assert "does not say how it was made" in nothing_changes(repository, other, capsys)


def test_a_commit_with_changes_is_called_so():
    facts = FACTS | {"commit": "0123456789abcdef-dirty"}

    assert "| commit | `012345678-dirty` |" in ship.region("small", facts)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_the_page_has_the_facts_of_the_shipped_file(size):
    page = (ship.REPOSITORY / "docs" / "teachers.md").read_text()

    facts = teachers.open_teacher(size).provenance
    assert ship.with_region(page, size, facts) == page


def test_the_page_has_marks_for_both_sizes():
    page = (ship.REPOSITORY / "docs" / "teachers.md").read_text()
    for size in ("small", "medium"):
        assert ship.region(size, FACTS) in ship.with_region(page, size, FACTS)
