"""Packing natural images, and distilling both teachers, with tiny numbers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import efficientad
from efficientad.natural_images.pictures import open_images
from lab.experiments.teachers import pack_images

DISTIL = Path(pack_images.__file__).with_name("distill.sh")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_shards_hold_all_images_and_are_small(pictures, tmp_path, capsys):
    (pictures / "torn.png").write_text("no picture")
    arguments = [str(pictures), "--output", str(tmp_path), "--mib", "0.02"]
    assert pack_images.main([*arguments, "--side", "44"]) == 0
    (pictures / "torn.png").unlink()

    tars = sorted(tmp_path.glob("*.tar"))
    assert len(tars) > 1
    assert all(tar.stat().st_size <= 0.02 * 2**20 for tar in tars)
    packed = open_images(tmp_path)
    assert len(packed) == 5
    assert packed.read(0).shape == (44, 44, 3)
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == len(tars)
    assert "left out: " in told.err
    assert "torn.png" in told.err
    assert pack_images.main(arguments) == 2
    assert "has earlier ones" in capsys.readouterr().err


def test_pictures_that_cannot_be_read_make_no_shards(tmp_path, capsys):
    (tmp_path / "torn.png").write_text("no picture")

    assert pack_images.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "found none" in capsys.readouterr().err


def distil(pictures, source, output, *options, environment=None):
    return subprocess.run(
        [
            *("bash", DISTIL, pictures, source, output),
            *("--device", "cpu", "--no-mixed-precision", "--image-size", "64"),
            *("--batch-size", "1", "--n-held-out", "1", "--snapshots", "0.5"),
            *options,
        ],
        env={**os.environ, "PYTHON": sys.executable, **(environment or {})},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_both_teachers_are_distilled_and_a_stopped_one_goes_on(
    pictures, tmp_path, resnet18
):
    """Stopped by Ctrl-C; then only the parts of its checkpoint are moved."""
    stop = tmp_path / "stop" / "sitecustomize.py"
    stop.parent.mkdir()
    stop.write_text(
        "import signal\n"
        "from efficientad.distillation import run as distillation_run\n"
        "finished = distillation_run.Distillation.take_step\n"
        "def step(self):\n"
        "    loss = finished(self)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    return loss\n"
        "distillation_run.Distillation.take_step = step\n"
    )
    source = Path(efficientad.__file__).resolve().parents[1]
    path = {"PYTHONPATH": f"{stop.parent}:{source}"}
    first, second = tmp_path / "first", tmp_path / "second"

    stopped = distil(pictures, resnet18, first, "--steps", "2", environment=path)
    assert stopped.returncode == 128 + signal.SIGINT, stopped.stderr
    parts = sorted(first.glob("*.part-*"))
    assert len(parts) > 1
    assert all(part.stat().st_size <= 15 * 2**20 for part in parts)
    second.mkdir()
    older = second / "teacher_small.safetensors.checkpoint"
    older.write_bytes(b"of an earlier sitting")
    os.utime(older, (0, 0))
    for part in parts[1:]:
        part.rename(second / part.name)
    refused = distil(pictures, resnet18, second, "--steps", "2")
    assert refused.returncode == 2
    assert "some are missing or damaged" in refused.stderr
    assert older.read_bytes() == b"of an earlier sitting"
    parts[0].rename(second / parts[0].name)
    finished = distil(pictures, resnet18, second, "--steps", "2")

    assert finished.returncode == 0, finished.stderr
    assert "step 1 of 2" not in finished.stderr.partition("size='medium'")[0]
    for size in ("small", "medium"):
        teacher = second / f"teacher_{size}.safetensors"
        assert efficientad.load_teacher(size, teacher).size == size
    assert not list(second.glob("*.part-*"))
    again = distil(pictures, resnet18, second, "--steps", "2")
    assert again.stdout.count("is there") == 2


def test_too_few_arguments_show_the_usage():
    finished = subprocess.run(
        ["bash", DISTIL],
        check=False,
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 2
    assert "distill.sh IMAGES SOURCE OUTPUT" in finished.stderr
