"""Golden traces: what a change that only moves code must leave as it is, to the bit.

    losses and final weights of 20 steps of `paper` and of `quick`
    scores and raw grids of three images, by every engine
    the metadata of a written model file

Numbers depend on the processor and on torch, so bits are recorded by platform in
`traces.json`; on an unrecorded platform the numbers are compared with a tolerance. Made
by

    python tests/golden/make_traces.py

on a commit whose numbers are right, and again only where a change of numbers is meant.
"""

import hashlib
import json
import runpy
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from efficientad.calibration.normal_images import training_and_validation
from efficientad.engines.pytorch import choose_device
from efficientad.exports.export import export
from efficientad.images.rgb import INPUT_SIZE, read_image, resize_image
from efficientad.inspection.opening import load, save
from efficientad.kernels import layers
from efficientad.model_files.teachers import open_teacher
from efficientad.natural_images.pictures import open_pretraining_images
from efficientad.training.config import PAPER, Recipe, TrainConfig
from efficientad.training.quick import QUICK
from efficientad.training.run import _Training

HERE = Path(__file__).resolve().parent
TRACES = HERE / "traces.json"
N_STEPS = 20
ENGINES = ("pytorch", "native", "onnxruntime", "openvino")
_DEPLOYMENT = runpy.run_path(str(HERE / "make_deployment.py"))


def platform() -> str:
    """Name what the bits depend on."""
    capability = torch.backends.cpu.get_cpu_capability()
    kernels = "native" if layers.is_available() else "plain"
    return f"torch {torch.__version__}, {capability}, {kernels}"


def drawn_images(n: int, seed: int) -> list[np.ndarray]:
    """Draw smooth color gradients with noise, 256 x 256."""
    images = []
    for index in range(n):
        coarse = _DEPLOYMENT["uniform"](seed + index, (6, 5, 3))
        small = Image.fromarray((127.5 * (1 + coarse)).astype(np.uint8))
        smooth = np.asarray(small.resize((INPUT_SIZE, INPUT_SIZE)), np.float64)
        noise = _DEPLOYMENT["uniform"](seed + 500 + index, smooth.shape)
        images.append(np.clip(smooth + 15 * noise, 0, 255).astype(np.uint8))
    return images


def digest(*arrays: Any) -> str:
    """Hash the bytes of arrays or tensors, in order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def training_trace(preset: str, n_steps: int = N_STEPS) -> dict[str, Any]:
    """Train on drawn images and keep every loss and a hash of the final weights."""
    recipe: Recipe = {"paper": PAPER, "quick": QUICK}[preset]
    recipe = replace(recipe, steps=N_STEPS)
    images = drawn_images(10, 10)
    training, _ = training_and_validation(
        images, validation=None, validation_share=0.2, seed=0
    )
    with tempfile.TemporaryDirectory() as folder:
        for index, image in enumerate(drawn_images(3, 30)):
            Image.fromarray(image).save(Path(folder) / f"{index}.png")
        run = _Training(
            TrainConfig(seed=0),
            recipe,
            choose_device("cpu"),
            open_teacher("small"),
            training,
            open_pretraining_images(Path(folder)),
        )
        losses = [run.take_step() for _ in range(n_steps)]
    networks = (run.detector.student, run.detector.autoencoder)
    weights = [v for network in networks for v in network.state_dict().values()]
    return {"losses": losses, "weights": digest(*weights)}


def engine_trace(name: str, folder: Path) -> dict[str, Any]:
    """Give scores and grids of the golden images by one engine."""
    paths = sorted(_DEPLOYMENT["FOLDER"].glob("*.png"))
    if name in {"pytorch", "native"}:
        predictor = _DEPLOYMENT["golden_predictor"](name)
    else:
        path = folder / ("part.onnx" if name == "onnxruntime" else "part.xml")
        export(_DEPLOYMENT["golden_predictor"](), path)
        predictor = load(path)
    found = [predictor.predict(path) for path in paths]
    trace: dict[str, Any] = {
        "scores": [p.image_score for p in found],
        "grids": digest(*(g for p in found for g in p.grids.values())),
        "middle": [
            [float(g[28, 28]), float(g[7, 40])] for p in found for g in p.grids.values()
        ],
    }
    if name in {"pytorch", "native"}:
        pixels = np.stack(
            [resize_image(read_image(p), INPUT_SIZE, INPUT_SIZE) for p in paths]
        )
        trace["raw_grids"] = digest(*predictor.engine.run(pixels).grids.values())
    return trace


def metadata() -> dict[str, str]:
    """Give the header of a model file of the golden detector.

    safetensors writes its entries in another order each time, so not as bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.ead"
        save(_DEPLOYMENT["golden_predictor"](), path)
        content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    found: dict[str, str] = header.pop("__metadata__")
    return found | {"tensors": digest(np.frombuffer(_canonical(header), np.uint8))}


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True).encode()


def trace_of(*, n_steps: int = N_STEPS) -> dict[str, Any]:
    """Compute everything on one thread."""
    n_before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            engines = {name: engine_trace(name, Path(folder)) for name in ENGINES}
        trainings = {p: training_trace(p, n_steps) for p in ("paper", "quick")}
    finally:
        torch.set_num_threads(n_before)
    return {"trainings": trainings, "engines": engines, "metadata": metadata()}


def main() -> None:
    """Record the traces of this platform beside those of others."""
    recorded = json.loads(TRACES.read_text()) if TRACES.exists() else {}
    recorded[platform()] = trace_of()
    TRACES.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
