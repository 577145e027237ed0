"""Verbs without standard streams, with closed ones, and with those of a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import efficientad
from efficientad.datasets.checks import check_category
from efficientad.progress import Progress, with_progress

FULL = Path("/dev/full")
FULL_SENTENCE = (
    "efficientad: cannot write to standard output (No space left on device); all "
    "result files are whole\n"
)
FEW_STEPS = [
    "--steps",
    "1",
    "--batch-size",
    "1",
    "--preset",
    "paper",
    "--no-has-pretraining-penalty",
]

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@pytest.fixture
def normal_images(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    for seed in range(10):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def model(predictor, tmp_path):
    path = tmp_path / "part.ead"
    efficientad.save(predictor, path)
    return path


def run(*arguments, **streams):
    """Run the command line, by default without any standard stream."""
    command = [sys.executable, "-m", "efficientad", *map(str, arguments)]
    if not streams:
        command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    return subprocess.run(
        command,
        check=False,
        timeout=300,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(efficientad.__file__).parents[1]),
        },
        **streams,
    )


@pytest.fixture
def full():
    with FULL.open("w") as stream:
        yield stream


@pytest.fixture
def closed():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.slow
def test_no_stream_is_needed_to_train_and_to_predict(normal_images, tmp_path):
    model, found = tmp_path / "part.ead", tmp_path / "found"

    trained = run("train", normal_images, "--output", model, *FEW_STEPS)
    predicted = run("predict", model, normal_images, "--output", found)

    assert (trained.returncode, predicted.returncode) == (0, 0)
    assert len((found / "predictions.csv").read_text().splitlines()) == 11
    assert len(list((found / "heatmaps").glob("*.png"))) == 10


def test_without_streams_a_wrong_option_still_ends_with_2():
    assert run("doctor", "--colour", "red").returncode == 2


@pytest.mark.parametrize("verb", [["--help"], ["train", "--help"], ["doctor"]])
def test_a_full_disk_behind_standard_output_is_one_sentence(full, verb):
    finished = run(*verb, stdout=full, stderr=subprocess.PIPE)

    assert finished.returncode == 2
    *_, sentence = finished.stderr.splitlines(keepends=True)
    assert sentence == FULL_SENTENCE
    assert "Traceback" not in finished.stderr


def test_results_are_whole_where_standard_output_is_full(model, full):
    change = ("threshold", model, "--at", "0.25")

    finished = run(*change, stdout=full, stderr=subprocess.PIPE)

    assert (finished.returncode, finished.stderr) == (2, FULL_SENTENCE)
    assert efficientad.load(model).calibration.threshold == 0.25


def test_a_closed_pipe_ends_quietly_with_the_usual_code(
    normal_images, tmp_path, closed
):
    record = tmp_path / "check.json"
    (normal_images / "broken.png").write_bytes(b"no image")

    finished = run(
        *("check", normal_images, "--output", record),
        stdout=closed,
        stderr=subprocess.PIPE,
    )

    assert (finished.returncode, finished.stderr) == (1, "")
    assert record.read_text().endswith("]\n")


@pytest.mark.parametrize("errors", ["full", "closed"])
def test_what_cannot_be_logged_ends_no_verb(
    normal_images, model, tmp_path, errors, request
):
    found = tmp_path / "found"
    (normal_images / "broken.png").write_bytes(b"no image")

    finished = run(
        *("predict", model, normal_images, "--output", found),
        stdout=subprocess.PIPE,
        stderr=request.getfixturevalue(errors),
    )

    assert finished.returncode == 1
    assert finished.stdout.startswith("10 images predicted")
    assert len((found / "predictions.csv").read_text().splitlines()) == 12


@pytest.mark.parametrize("stream", [None, object()])
def test_the_library_needs_no_standard_error(normal_images, monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)

    Progress(10, "image").update(10, loss=0.5)
    assert list(with_progress([[1], [2]], 2, "reading")) == [[1], [2]]
    assert not check_category(normal_images).has_errors
