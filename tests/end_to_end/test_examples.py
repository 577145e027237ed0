"""Every example runs."""

import runpy
from pathlib import Path

import pytest

from efficientad.demo_parts import write_category

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name))


def test_nearest_neighbors_find_what_is_new(tmp_path, monkeypatch, capsys):
    parts = tmp_path / "parts"
    write_category(parts, n_train=8, n_test_good=2, n_per_defect=1, seed=0, size=256)

    run(monkeypatch, "nearest_neighbor.py", parts)

    *scores, last = capsys.readouterr().out.splitlines()
    n_images = len(list((parts / "test").rglob("*.png")))
    assert len(scores) == n_images
    assert all(0 <= float(line.split()[0]) <= 2 for line in scores)
    assert float(last.removeprefix("AU-ROC ")) > 0.5


@pytest.mark.slow
def test_training_from_arrays(monkeypatch, capsys):
    run(monkeypatch, "train_from_arrays.py", 2)

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.split()[2] in {"True", "False"} for line in lines)


def test_no_example_is_left_out():
    tested = {"nearest_neighbor.py", "train_from_arrays.py"}

    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
