"""Recorded runs as files."""

import json

import pytest

from efficientad.errors import ResultError
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import (
    FORMAT_VERSION,
    file_name,
    is_finished,
    mean_and_deviation,
    read_run,
    read_runs,
    write_run,
)

RUN = {
    "experiment": "reproduce",
    "category": "bottle",
    "variant": "small, quick",
    "seed": 3,
    "metrics": {"image_au_roc": 0.5},
    "machine": "2 cores",
    "versions": {"torch": "2.13.0"},
    "commit": "0123456789abcdef",
}


def test_a_file_is_named_by_what_tells_runs_apart():
    assert file_name(RUN) == "reproduce_bottle_small_quick_seed3.json"
    strange = RUN | {"category": "Ähre/1", "variant": "a 0.5,  b 0.9"}
    assert file_name(strange) == "reproduce_ähre-1_a_0.5_b_0.9_seed3.json"


def test_a_written_run_is_read_as_it_was(tmp_path):
    path = write_run(RUN, tmp_path)

    assert read_run(path) == RUN | {"format": FORMAT_VERSION}


def test_runs_are_read_in_order_of_experiment_category_variant_and_seed(tmp_path):
    for seed in (10, 2):
        write_run(RUN | {"seed": seed}, tmp_path)
    write_run(RUN | {"category": "axle"}, tmp_path)

    read = [(run["category"], run["seed"]) for run in read_runs(tmp_path)]

    assert read == [("axle", 3), ("bottle", 2), ("bottle", 10)]


def test_a_run_without_a_format_is_of_the_first(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(RUN))

    assert read_run(path) == RUN


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "is something else; move it away"),
        (json.dumps(RUN | {"seed": "3"}), "is something else; move it away"),
        (json.dumps(RUN | {"format": 99}), "is a run of format 99, this efficientad"),
    ],
)
def test_a_file_that_is_no_run_of_this_version_is_named(tmp_path, text, words):
    path = tmp_path / "broken.json"
    path.write_text(text)

    with pytest.raises(ResultError, match=words) as raised:
        read_runs(tmp_path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", ["metrics", "machine", "versions", "commit"])
def test_a_finished_run_that_lacks_something_is_named(tmp_path, name):
    path = write_run(RUN | {name: None}, tmp_path)

    with pytest.raises(ResultError, match=f"lacks {name}; remove it") as raised:
        read_run(path)
    assert str(path) in str(raised.value)
    write_run(RUN | {name: None, "failure": "no time was left"}, tmp_path)
    assert not is_finished(read_run(path))


def test_a_run_with_a_failure_is_not_finished():
    assert is_finished(RUN)
    assert not is_finished(RUN | {"failure": "ImageError: it is torn"})


def test_one_value_has_no_deviation():
    assert mean_and_deviation([98.0], 1) == "98.0"
    assert mean_and_deviation([97.0, 98.0, 99.0], 2) == "98.00 ± 1.00"


def test_the_environment_names_machine_versions_and_commit():
    told = environment()

    assert set(told) == {"machine", "load", "versions", "commit"}
    assert "cores" in told["machine"]
    assert {"python", "torch", "numpy", "efficientad"} <= set(told["versions"])
