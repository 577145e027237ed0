"""Each hostile case has its defined outcome; `make test` runs one of each area."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.hostile import run
from tests.hostile.case import AREAS, OK, REFUSED, Case
from tests.hostile.table import CASES, fast_cases

import efficientad

REPOSITORY = Path(__file__).resolve().parents[2]


def problems_of(folder, *options):
    """Run cases; return how many there were, and the problems of each that has some."""
    sources = Path(efficientad.__file__).parents[1]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.hostile.run", str(folder), *options],
        check=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{sources}{os.pathsep}{REPOSITORY}"},
    )
    found = [json.loads(line) for line in finished.stdout.splitlines()]
    problems = {f"{r['area']}/{r['name']}": r["problems"] for r in found}
    return len(found), {name: listed for name, listed in problems.items() if listed}


def test_the_table_has_all_areas_and_no_case_twice():
    counts = Counter(case.area for case in CASES)

    assert len(CASES) >= 400
    assert list(counts) == list(AREAS)
    assert min(counts.values()) >= 20
    assert len({case.id for case in CASES}) == len(CASES)


def test_one_case_of_each_area_has_its_outcome(tmp_path):
    assert problems_of(tmp_path / "cases", "--fast") == (len(AREAS), {})
    assert {case.area for case in fast_cases()} == set(AREAS)


@pytest.mark.slow
def test_every_case_has_its_outcome(tmp_path):
    assert problems_of(tmp_path / "cases") == (len(CASES), {})


def noticed(case, result, said="", before=None):
    """Return the problems of a result in the current folder."""
    known = dict(run.snapshot(Path())) if before is None else before
    return " ".join(run._problems(case, result, said, known))


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (OK, "", "code 0, needed (2,)"),
        (REFUSED, "", "needed one sentence"),
        (REFUSED, "efficientad: a\nefficientad: b\n", "needed one sentence"),
        (REFUSED, "Traceback\nefficientad: b\n", "traceback"),
        (REFUSED, "efficientad: b\n", "needed 'words' in"),
    ],
)
def test_another_outcome_is_noticed(tmp_path, monkeypatch, code, said, words):
    monkeypatch.chdir(tmp_path)
    case = Case(area="lists", name="a", command=("check",), words="words")
    result = run.Result("lists", "a", code, sentence=said.strip().rpartition("\n")[2])

    assert words in noticed(case, result, said)


def test_changed_inputs_and_what_is_left_behind_are_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = Case(area="lists", name="a", codes=(OK,), makes=("list",), call=lambda: None)
    for name in ("in", "out"):
        Path(name).mkdir()
    Path("in/a.png").write_text("before")
    before = dict(run.snapshot(Path()))
    whole = run.Result("lists", "a", OK)

    assert noticed(case, whole, before=before) == "out/list: missing"
    Path("out/list").touch()
    assert not noticed(case, whole, before=before)
    Path("out/.a.partial").touch()
    assert "left behind: out/.a.partial" in noticed(case, whole, before=before)
    Path("in/a.png").write_text("after")
    assert "in/a.png: " in noticed(case, whole, before=before)
    slow = run.Result("lists", "a", OK, seconds=99, mebibytes=9999)
    assert "processor seconds" in noticed(case, slow, before=before)
    assert "9999 MiB" in noticed(case, slow, before=before)


def test_a_process_that_dies_is_noticed():
    def ended():
        os.kill(os.getpid(), signal.SIGKILL)

    def failed():
        raise ValueError("a fault")

    assert run.in_a_process(ended, 60) == "ended by SIGKILL"
    assert "ValueError: a fault" in str(run.in_a_process(failed, 60))
