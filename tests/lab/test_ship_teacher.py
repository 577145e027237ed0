"""One command replaces the shipped teacher, in a copy of what it changes."""

import json

import pytest
import ship_teacher
import torch

from efficientad.errors import ModelFileError
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.model_files import container as tensor_file
from efficientad.model_files import teachers

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
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Documents with a place for a teacher, and a package that ships none."""
    for folder in ("docs", "benchmarks/teachers", "weights"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs" / "teachers.md").write_text(
        "# T\n\n<!-- teacher: small -->\n\nold\n\n<!-- end of teacher -->\n\nrest\n"
    )
    (tmp_path / "CHANGELOG.md").write_text(
        "# C\n\n## Unreleased\n\n### Added\n\n- A thing.\n\n## 0.1.0\n\n- Old.\n"
    )
    monkeypatch.setattr(teachers, "_weights_folder", lambda: tmp_path / "weights")
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


def test_all_that_tells_of_a_teacher_is_replaced(repository, teacher):
    target = ship_teacher.ship(teacher, {"source": "ResNet-50, MIT"}, repository)

    assert target == repository / "weights" / "teacher_small.safetensors"
    shipped = teachers.open_teacher("small")
    assert shipped.provenance["source"] == "ResNet-50, MIT"
    assert shipped.provenance["commit"]
    hashes = json.loads((repository / "weights" / "hashes.json").read_text())
    assert hashes == {target.name: shipped.file_hash}
    for name, value in shipped.network.state_dict().items():
        assert torch.equal(value, value.half().float()), name
    page = (repository / "docs" / "teachers.md").read_text()
    assert "old" not in page
    assert "| source network | ResNet-50, MIT |" in page
    assert "| 0.457; over the channels, least, quartiles and most: 0.10, 0.20," in page
    assert page.endswith("<!-- end of teacher -->\n\nrest\n")
    log = repository / "benchmarks" / "teachers" / "teacher_small.jsonl"
    assert log.read_text() == write_log(teacher)


def test_a_second_time_replaces_its_line_and_keeps_what_was_said(repository, teacher):
    ship_teacher.ship(teacher, {"source": "ResNet-50, MIT"}, repository)
    once = (repository / "CHANGELOG.md").read_text()
    ship_teacher.ship(teacher, {"note": "again"}, repository)

    assert once.count("- The shipped small teacher is distilled from resnet50") == 1
    assert once.index("The shipped small") < once.index("## 0.1.0")
    assert (repository / "CHANGELOG.md").read_text() == once
    facts = teachers.open_teacher("small").provenance
    assert facts["source"] == "ResNet-50, MIT"
    assert facts["note"] == "again"


def test_what_was_said_of_another_source_is_not_kept(repository, teacher, tmp_path):
    ship_teacher.ship(teacher, {"source": "ResNet-50, MIT"}, repository)
    other = tmp_path / "other.safetensors"
    teachers.save_teacher(
        PatchDescriptionNetwork("small"), {**FACTS, "source_hash": "def"}, other
    )
    write_log(other)
    ship_teacher.ship(other, {}, repository)

    assert "source" not in teachers.open_teacher("small").provenance


def test_what_the_file_says_of_itself_is_kept(repository, teacher, tmp_path):
    ship_teacher.ship(teacher, {"hardware": "two cores"}, repository)
    other = tmp_path / "other.safetensors"
    made_with = {"commit": "0123456789abcdef", "hardware": "one GPU"}
    teachers.save_teacher(PatchDescriptionNetwork("small"), FACTS | made_with, other)
    write_log(other)
    ship_teacher.ship(other, {}, repository)

    facts = teachers.open_teacher("small").provenance
    assert {name: facts[name] for name in made_with} == made_with
    page = (repository / "docs" / "teachers.md").read_text()
    assert "| hardware | one GPU; 2.50 hours of steps |" in page
    assert "| commit | `012345678` |" in page


def test_the_command_names_what_is_left_to_do(repository, teacher, capsys, monkeypatch):
    monkeypatch.setattr(ship_teacher, "REPOSITORY", repository)

    assert ship_teacher.main([str(teacher)]) == 0

    told = capsys.readouterr().out
    assert "left to do by hand: the prose around the table in docs/teachers.md" in told
    assert "docs/teacher_figure.png with its record" in told


def test_a_file_that_is_no_teacher_changes_nothing(repository, tmp_path, capsys):
    path = tmp_path / "no.safetensors"
    tensor_file.write(path, "teacher", {"a": torch.zeros(1)}, {"size": "small"})
    before = sorted(repository.rglob("*"))

    assert ship_teacher.main([str(path)]) == 2
    assert "does not hold the weights of a small teacher" in capsys.readouterr().err
    assert sorted(repository.rglob("*")) == before
    with pytest.raises(ModelFileError):
        teachers.open_teacher("small")


def nothing_changes(repository, path, capsys):
    """Give the sentence by which a teacher is refused."""
    files = [f for f in repository.rglob("*") if f.is_file()]
    before = {f: f.read_bytes() for f in files}
    ship_teacher.REPOSITORY, kept = repository, ship_teacher.REPOSITORY
    try:
        assert ship_teacher.main([str(path)]) == 2
    finally:
        ship_teacher.REPOSITORY = kept
    files = [f for f in repository.rglob("*") if f.is_file()]
    assert {f: f.read_bytes() for f in files} == before
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("CHANGELOG.md", "needs the heading ## Unreleased"),
        ("docs/teachers.md", "marks"),
    ],
)
def test_documents_without_a_place_change_nothing(
    repository, teacher, capsys, document, words
):
    (repository / document).write_text("# Nothing here\n")

    assert words in nothing_changes(repository, teacher, capsys)


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

    assert "| commit | `012345678-dirty` |" in ship_teacher.region("small", facts)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_the_page_says_of_a_shipped_teacher_what_its_file_says(size):
    page = (ship_teacher.REPOSITORY / "docs" / "teachers.md").read_text()

    facts = teachers.open_teacher(size).provenance
    assert ship_teacher.with_region(page, size, facts) == page


def test_the_documents_have_a_place_for_both_sizes():
    page = (ship_teacher.REPOSITORY / "docs" / "teachers.md").read_text()
    for size in ("small", "medium"):
        assert ship_teacher.region(size, FACTS) in ship_teacher.with_region(
            page, size, FACTS
        )
