"""The sound files that hostile cases start from: a model, exports, pictures."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from tests.dataset_files import smooth_picture, write_sound_category

import efficientad
from efficientad.decisions.decision import Calibration
from efficientad.inspection.opening import detector_engine
from efficientad.inspection.predictor import Predictor
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.maps import MapScale
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.model_files.tensors import as_arrays

TRAIN: Final = (
    *("--steps", "3", "--batch-size", "1", "--device", "cpu", "--preset", "paper"),
    "--no-has-pretraining-penalty",
)
"""A training of three steps; the checkpoint was written after the first."""


def untrained_detector(n_channels: int = 32) -> Detector:
    """Return networks with random weights, small ones."""
    torch.manual_seed(0)
    detector = Detector(
        PatchDescriptionNetwork("small", n_channels, n_hidden=64),
        PatchDescriptionNetwork("small", 2 * n_channels, n_hidden=64),
        Autoencoder(n_channels),
        ChannelStatistics(torch.zeros(n_channels), torch.ones(n_channels)),
    )
    return detector.eval().requires_grad_(requires_grad=False)


def untrained_predictor() -> Predictor:
    """Return these networks with a calibration."""
    detector = untrained_detector()
    scales = {"local": MapScale(0.0, 1.0), "global": MapScale(0.0, 1.0)}
    return Predictor(
        engine=detector_engine(detector, "pytorch"),
        calibration=Calibration(scales, (0.1, 0.2, 0.3), 0.01),
        provenance={"training_images": {}},
        size=detector.size,
        weights=as_arrays(detector.state_dict()),
    )


@contextmanager
def interrupted_at_once() -> Iterator[Callable[[], bool]]:
    """Interrupt a training after its first step."""
    yield lambda: True


def write_shared_files(folder: Path, *, has_results: bool = True) -> None:
    """Write the sound files; paths of images are relative, as those of the cases.

    Args:
        folder: Folder to write to.
        has_results: Whether exports and a checkpoint are made, too, which takes longer.
    """
    os.chdir(folder)
    normal = Path("normal")
    normal.mkdir()
    for seed in range(10):
        smooth_picture(seed, 48).save(normal / f"{seed:03}.png")
    smooth_picture(50, 48).save("good.png")
    write_sound_category(Path("parts"))
    predictor = untrained_predictor()
    efficientad.save(predictor, "part.ead")
    if not has_results:
        return
    for name in ("part.onnx", "part.xml"):
        efficientad.export(predictor, name, images=normal)
    config = efficientad.TrainConfig(
        steps=3,
        batch_size=1,
        device="cpu",
        preset="paper",
        has_pretraining_penalty=False,
    )
    with suppress(KeyboardInterrupt):
        efficientad.train(
            normal, config, output="run.ead", interrupts=interrupted_at_once
        )


def gradient(height: int = 24, width: int = 20, channels: int = 3) -> np.ndarray:
    """Return 16-bit values that all differ, (height, width, channels)."""
    n = height * width * channels
    values = np.linspace(0, 65535, n).astype(np.uint16)
    return values.reshape(height, width, channels)


def picture(seed: int = 7) -> Image.Image:
    """Return a picture of noise, 24 x 20 pixels."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8))
