"""The experiment that fits, evaluates and records other methods."""

import json
import re

import pytest

from efficientad.demo_parts import write_category
from efficientad_lab.methods.all_methods import METHODS
from efficientad_lab.methods.predictors import load_method
from efficientad_lab.studies.records import read_runs
from lab.experiments import make_tables
from lab.experiments.methods import run as experiment

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "parts"
    write_category(folder, n_train=11, n_test_good=2, n_per_defect=1, seed=0, size=64)
    return folder


@pytest.fixture
def arguments(parts, resnet18, tmp_path):
    return [
        *("patchcore", str(parts), "--backbones", str(resnet18)),
        *("--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")),
        *("--set", "input_size=64", "coreset=0.1"),
    ]


def test_a_method_is_recorded_once(arguments, parts, tmp_path, capsys):
    assert experiment.main(arguments) == 0
    (run,) = read_runs(tmp_path / "results")

    assert run["variant"] == "PatchCore, resnet18, 64 px, 10 %"
    assert 0 <= run["metrics"]["image_au_roc"] <= 1
    assert run["metrics"]["gflop"] > 0
    assert run["metrics"]["milliseconds"] > 0
    assert run["settings"]["coreset"] == 0.1
    assert run["command"].startswith("run.py patchcore ")
    assert "| parts | PatchCore, resnet18, 64 px, 10 % |" in make_tables.table([run])
    assert "GFLOP" in make_tables.table([run])
    (folder,) = (tmp_path / "work").iterdir()
    predictor = load_method(folder / "method.safetensors", [*METHODS.values()])
    assert predictor.predict(parts / "test/good/000.png").image_score > 0
    assert (folder / "report.html").stat().st_size > 0
    (path,) = (tmp_path / "results").iterdir()
    before = path.read_bytes()

    assert experiment.main(arguments) == 0
    assert path.read_bytes() == before
    assert capsys.readouterr().out.splitlines()[0].endswith(".json")


def test_a_busy_machine_gives_no_wall_times(arguments, tmp_path):
    assert experiment.main([*arguments, "--busy"]) == 0
    (run,) = read_runs(tmp_path / "results")

    assert run["interrupted"]
    assert "milliseconds" not in run["metrics"]
    assert run["metrics"]["processor_milliseconds"] > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--set", "coresett=0.1"), "--set needs one of coreset, dimension, "),
        (("--set", "coreset=much"), "--set coreset needs a value in JSON, got 'much'"),
        (("--set", "coreset=2"), "coreset"),
        (("--backbones", "pdn-small"), r"needs stages of stride \[16\]"),
        (("--backbones",), "patchcore needs 1 backbones, got 0"),
        (("--backbones", "missing.pth"), "the source network missing.pth does not"),
    ],
)
def test_bad_input_is_one_sentence(arguments, tmp_path, capsys, changed, message):
    assert experiment.main([*arguments, *changed]) == 2

    error = capsys.readouterr().err
    assert error.startswith("methods: ")
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "results").exists()


def test_a_recorded_run_with_other_settings_is_not_replaced(
    arguments, tmp_path, capsys
):
    assert experiment.main(arguments) == 0
    (path,) = (tmp_path / "results").iterdir()
    run = json.loads(path.read_text())
    run["settings"]["minutes"] = 5
    path.write_text(json.dumps(run))

    assert experiment.main(arguments) == 2
    assert "recorded with other settings" in capsys.readouterr().err
