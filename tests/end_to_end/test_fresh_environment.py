"""A deployment install in an environment of its own: no torch, the same answer.

Installs from the package registry, so `make fresh` runs it and `make test` does not,
which reads what the extras pull in (`test_requirements.py`).
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from PIL import Image
from tests.c_interface import Interface

import efficientad
from efficientad.images.rgb import read_image
from efficientad.kernels import prebuilt

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL_BYTES = 120 * 10**6
ENGINE_OF = {"onnx": "onnxruntime", "openvino": "openvino"}


def run(*command):
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.fresh
@pytest.mark.slow
@pytest.mark.parametrize("extra", ENGINE_OF)
def test_a_deployment_install_has_no_torch_and_predicts(
    exports, photograph, tmp_path, extra
):
    venv.create(tmp_path / "env", with_pip=False)
    binaries = tmp_path / "env" / "bin"
    python = str(binaries / "python")
    installed = run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
        *("--constraint", str(REPOSITORY / "constraints.txt")),
        f"{REPOSITORY}[{extra}]",
    )
    assert installed.returncode == 0, installed.stderr
    image, found = tmp_path / "a.png", tmp_path / "found"
    Image.fromarray(photograph(90, 70)).save(image)
    export = exports[ENGINE_OF[extra]]

    predicted = run(
        str(binaries / "efficientad"), "predict", export, image, "--output", found
    )

    assert predicted.returncode == 0, predicted.stderr
    row = json.loads((found / "predictions.jsonl").read_text(encoding="utf-8"))
    expected = efficientad.load(export).predict(image)
    assert row["image_score"] == pytest.approx(expected.image_score, rel=1e-4)
    assert row["is_anomalous"] == expected.is_anomalous
    assert run(python, "-c", "import numpy").returncode == 0
    assert "No module named 'torch'" in run(python, "-c", "import torch").stderr


def assert_c_predicts(environment, predictor, path, image):
    """The library in an environment predicts what the predictor does."""
    (found,) = environment.rglob("libefficientad.so")
    assert found.with_name("efficientad.h").is_file()
    library = Interface(found)
    processors = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    best = prebuilt.best_instruction_set(processors)
    assert library.raw.ead_instruction_set().decode() == best
    efficientad.export(predictor, path)
    prediction, _, _ = library.predict(library.open(path), read_image(image))
    expected = predictor.predict(image).image_score
    assert prediction.score == pytest.approx(expected, rel=1e-4)


@pytest.mark.fresh
@pytest.mark.slow
def test_a_wheel_predicts_without_torch_and_without_a_compiler(
    predictor, photograph, tmp_path
):
    pytest.importorskip("ziglang", reason="needs `make wheel`'s compiler")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=REPOSITORY,
        env={**os.environ, "EFFICIENTAD_MACHINE": "x86_64"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    binaries = tmp_path / "env" / "bin"
    installed = run(
        *(sys.executable, "-m", "pip", "--python", str(binaries / "python")),
        *("install", "--quiet", "--constraint", str(REPOSITORY / "constraints.txt")),
        str(wheel),
    )
    assert installed.returncode == 0, installed.stderr
    model, image, found = (tmp_path / name for name in ("a.ead", "a.png", "found"))
    efficientad.save(predictor, model)
    Image.fromarray(photograph(90, 70)).save(image)

    def on_the_line(*arguments):
        return subprocess.run(
            [binaries / "efficientad", *arguments],
            env={"PATH": "/nowhere", "HOME": str(tmp_path)},
            check=False,
            capture_output=True,
            text=True,
        )

    predicted = on_the_line("predict", model, image, "--output", found)

    assert predicted.returncode == 0, predicted.stderr
    assert not predicted.stderr
    assert not (tmp_path / ".cache").exists()
    row = json.loads((found / "predictions.jsonl").read_text(encoding="utf-8"))
    expected = predictor.predict(image)
    assert row["image_score"] == pytest.approx(expected.image_score, rel=1e-4)
    told = on_the_line("doctor")
    assert told.returncode == 0, told.stderr
    assert "native layers, compiled ahead for" in told.stdout
    assert "run: pip install 'efficientad[train]'" in told.stdout
    assert_c_predicts(tmp_path / "env", predictor, tmp_path / "part.native", image)
    size = sum(f.stat().st_size for f in (tmp_path / "env").rglob("*") if f.is_file())
    assert size < INSTALL_BYTES
