"""The comparison with other implementations, by a fake process of anomalib."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efficientad.datasets import open_category
from efficientad.demo_parts import write_category
from efficientad_lab.studies.records import read_runs
from lab.experiments import make_tables
from lab.experiments.peers import run as compare

PROCESS = """#!{python}
import json, os, struct, sys
import numpy as np
settings = json.loads(sys.argv[2])
task = settings["training"]
if task["peer"] == "STFPM":
    sys.exit("no memory left")
names = "train_seconds millions_of_numbers"
facts = dict.fromkeys(names.split(), 1.5) | {{"steps": 3, "batch": 8}}
facts["versions"] = {{"torch": "2.0", "anomalib": "1.0"}}
facts["outputs"] = {{"anomaly": [256, 256], "score": [1]}}
answers = os.fdopen(settings["answers"], "wb")
answers.write(json.dumps(facts).encode() + b"\\n")
answers.flush()
rng = np.random.default_rng(0)
paths = iter(task["test"])
while header := sys.stdin.buffer.read(8):
    (n,) = struct.unpack("<Q", header)
    sys.stdin.buffer.read(n * 256 * 256 * 3)
    answers.write(rng.random((n, 256, 256), np.float32).tobytes())
    is_defect = ["good" not in next(paths, "") for _ in range(n)]
    answers.write(np.array(is_defect, np.float32).tobytes())
    answers.flush()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_category(
        folder / "parts", n_train=11, n_test_good=2, n_per_defect=1, seed=0, size=64
    )
    natural = folder / "work" / "natural" / "images"
    natural.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(natural / "0.jpg")
    return folder


@pytest.fixture
def arguments(data, tmp_path):
    python = tmp_path / "python"
    python.write_text(PROCESS.format(python=sys.executable))
    python.chmod(0o755)
    shutil.copytree(data / "work", tmp_path / "work")
    return [
        *("--data", str(data), "--categories", "parts", "--python", str(python)),
        *("--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")),
        *("--peers", "PatchCore", "STFPM", "DSR"),
    ]


def test_a_failing_peer_is_recorded_and_stops_no_other(arguments, tmp_path, capsys):
    assert compare.main(arguments) == 0
    runs = {run["variant"]: run for run in read_runs(tmp_path / "results")}

    assert runs["PatchCore"]["metrics"]["image_au_roc"] == 1
    assert runs["PatchCore"]["seconds"]["train"] == 1.5
    assert "no memory left" in runs["STFPM"]["failure"]
    assert "no memory left" in capsys.readouterr().err
    assert runs["DSR"]["metrics"] == {}
    shown = make_tables.table(list(runs.values()))
    assert "- DSR: not run: its vector-quantized autoencoder" in shown
    assert "; anomalib 1.0, torch 2.0, torch " in shown
    assert "| 24 |" in shown, "images of training"
    assert next(line for line in shown.splitlines() if "| DSR |" in line)[-4:] == " 0 |"
    failed = "- parts, STFPM, seed 0: failed: MissingDependencyError: anomalib's model"
    assert failed in shown


def test_finished_runs_are_skipped_and_failed_ones_tried_again(arguments, tmp_path):
    compare.main(arguments)
    python = Path(tmp_path / "python")
    python.write_text(python.read_text().replace('== "STFPM"', '== "PatchCore"'))
    compare.main(arguments)

    assert not [run for run in read_runs(tmp_path / "results") if "failure" in run]


def test_a_run_of_another_budget_is_not_taken_for_it(arguments, tmp_path, capsys):
    arguments += ["--peers", "PatchCore"]
    compare.main(arguments)

    assert compare.main([*arguments, "--budget", "60"]) == 2

    path = tmp_path / "results" / "peers_parts_patchcore_seed0.json"
    sentence = capsys.readouterr().err
    assert f"{path} was recorded with other settings" in sentence
    assert "(budget_seconds)" in sentence


def test_held_out_images_are_not_trained_on(data, tmp_path):
    images = compare.prepare(open_category(data / "parts"), tmp_path)
    trained = {path.resolve() for path in (images / "trained").iterdir()}
    held_out = {path.resolve() for path in (images / "held_out").iterdir()}

    assert len(trained) == 9
    assert len(held_out) == 2
    assert not trained & held_out


def test_a_worker_that_hangs_or_is_not_there_is_a_failure(arguments, tmp_path):
    python = Path(tmp_path / "python")
    python.write_text(f"#!{sys.executable}\nimport time; time.sleep(60)\n")
    compare.main([*arguments, "--peers", "PatchCore", "--limit", "1"])
    (run,) = read_runs(tmp_path / "results")
    assert "not ready after 1 s" in run["failure"]

    python.unlink()
    compare.main([*arguments, "--peers", "PatchCore"])
    (run,) = read_runs(tmp_path / "results")
    assert "`make peers` builds" in run["failure"]
