"""Readers of model files, each with sound files to change."""

import json
import shutil
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save
from tests.hostile.files import write_shared_files

import efficientad
from efficientad.inspection.card import card
from efficientad.model_files import container, export_metadata
from efficientad.model_files.teachers import open_teacher, save_teacher
from lab.experiments.fuzzing.mutations import Rng, changed_value
from lab.experiments.fuzzing.readers import PICTURE, Make, Reader, bytes_of, json_of

_METRICS: Final = {
    "category": "part",
    "n_defect": 3,
    "n_defects_found": 2,
    "n_normal": 3,
    "n_normal_flagged": 0,
    "image_au_roc": 0.9,
}


def model_readers() -> dict[str, Reader]:
    """Return the readers of model files by name; sound files are written here."""
    write_shared_files(Path.cwd())
    detector = efficientad.load("part.ead", engine="pytorch").detector
    assert detector is not None
    save_teacher(detector.teacher, {}, Path("teacher"))
    shutil.copy("part.bin", "a.bin")
    return {
        "detectors": Reader("a.ead", _changed("part.ead"), _predict),
        "detectors, hashed": Reader("a.ead", _hashed_detector(), _predict),
        "teachers": Reader("a", _changed("teacher"), _open_teacher),
        "checkpoints": Reader("a", _changed("run.ead.checkpoint"), _open_checkpoint),
        "ONNX exports": Reader("a.onnx", _changed("part.onnx"), _predict),
        "ONNX exports, hashed": Reader("a.onnx", _hashed_export(), _predict),
        "OpenVINO exports": Reader("a.xml", _changed("part.xml"), _predict),
        "metrics": Reader("a.json", json_of(_METRICS), _card),
    }


def _changed(name: str) -> Make:
    return bytes_of([Path(name).read_bytes()])


def _hashed_detector() -> Make:
    """Return a maker of detectors with wrong content under the right checksum."""
    arrays, content = container.read(Path("part.ead"), "detector")

    def make(rng: Rng) -> bytes:
        metadata = {
            "efficientad": "detector",
            "efficientad_version": "12"[rng.integers(2)],
            "content": json.dumps(changed_value(content, rng)),
        }
        metadata["sha256"] = container._hash(metadata["content"], arrays)  # noqa: SLF001
        return save(dict(arrays), metadata)

    return make


def _hashed_export() -> Make:
    """Return a maker of exports with wrong metadata under the right checksum."""
    path = Path("part.onnx")
    text, rest = export_metadata._split(path)  # noqa: SLF001 - as the writer does
    content = json.loads(text or "")
    del content["text_hash"]

    def make(rng: Rng) -> bytes:
        given = changed_value(content, rng)
        if isinstance(given, dict):
            given["text_hash"] = export_metadata._text_hash(given)  # noqa: SLF001
        return export_metadata._joined(path, json.dumps(given), rest)  # noqa: SLF001

    return make


def _predict(path: Path) -> None:
    predictor = efficientad.load(path, device="cpu")
    prediction = predictor.predict(PICTURE)
    assert np.isfinite(prediction.image_score)
    assert 0 <= prediction.p_value <= 1
    card(path)


def _open_teacher(path: Path) -> None:
    open_teacher("small", path)


def _open_checkpoint(path: Path) -> None:
    container.read(path, "checkpoint")


def _card(path: Path) -> None:
    card("part.ead", metrics=path)
