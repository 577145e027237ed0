"""anomalib's EfficientAd with a detector's own weights, to be measured beside it.

anomalib lives in an environment of its own, so each of its models is a process of that
environment's Python (`anomalib_process.py`), which gets pixels and gives maps through
pipes: a quarter of a MiB each way for an image, far below a millisecond.
"""

import json
import math
import os
import queue
import shutil
import struct
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import efficientad
from efficientad.errors import MissingDependencyError, ModelFileError
from efficientad.images.rgb import INPUT_SIZE, ImageLike, as_rgb, resize_image
from efficientad.method.decision import Calibration, Prediction
from efficientad.method.detector import Detector
from efficientad.method.maps import RawMaps, image_scores, normalize_maps
from efficientad.method.sizes import GRID_SIZE
from efficientad_lab.benchmark.baseline import BaselinePredictor
from efficientad_lab.benchmark.memory import peak_mib

_SCRIPT: Final = Path(__file__).with_name("anomalib_process.py")
_WEIGHTS: Final = "weights.npz"
_SECONDS_TO_END: Final = 10
_LONGEST_REASON: Final = 300
_Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AnomalibPrediction(Prediction):
    """With the combined map that anomalib itself enlarges to the image's 256 x 256."""

    own_map: _Maps = field(repr=False)

    @cached_property
    def anomaly_map(self) -> _Maps:
        """Combined map as anomalib gives it; its margins and enlarging are its own."""
        return self.own_map


class AnomalibPredictor:
    """Judges images by anomalib's model of EfficientAD, in single precision.

    Grids and scores are of the raw maps that the model enlarges, and those of the
    detector. Only the combined map of an image of 256 x 256, as a benchmark has it, is
    the one that anomalib enlarged: its map normalization knows no level of an image, by
    which preset `quick` divides. Other sizes are placed as this package does.

    Args:
        detector: Calibrated; its weights are copied.
        python: The Python of an environment that has anomalib.
        n_streams: Processes, between which the threads are shared.

    Raises:
        NotCalibratedError: If the detector has no calibration.
        MissingDependencyError: If that Python cannot be run, or cannot open the model.
    """

    precision: Final = "fp32"

    def __init__(self, detector: Detector, python: Path, *, n_streams: int = 1) -> None:
        plain = BaselinePredictor(detector)
        self.calibration = plain.calibration
        self.size, self.device = plain.size, plain.device
        settings = {
            "size": self.size,
            "device": self.device.type,
            "threads": str(max(1, torch.get_num_threads() // n_streams)),
        }
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # Alone: beside the original lie modules that would hide those of libraries.
            shutil.copy(_SCRIPT, folder)
            np.savez(folder / _WEIGHTS, **_weights(plain))
            processes = [_Process(python, folder, settings) for _ in range(n_streams)]
            for process in processes:
                self.versions = process.wait_until_ready()
                self._idle.put(process)
        self._processes = tuple(processes)

    def predict(self, image: ImageLike) -> Prediction:
        """Judge one image of any size."""
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Judge several images, of any sizes, in one call of the model.

        Raises:
            ModelFileError: If the process does not answer.
        """
        if not images:
            return []
        arrays = [as_rgb(image) for image in images]
        pixels = np.stack([resize_image(a, INPUT_SIZE, INPUT_SIZE) for a in arrays])
        process = self._idle.get()
        try:
            own_maps, *raw = process.judge(pixels)
        finally:
            self._idle.put(process)
        maps = normalize_maps(RawMaps(*map(torch.from_numpy, raw)), self.calibration)
        scores = image_scores(maps.combined_map).tolist()
        grids = (maps.local_map.numpy(), maps.global_map.numpy())
        return [
            self._prediction(*of_one)
            for of_one in zip(arrays, own_maps, scores, *grids, strict=True)
        ]

    def peak_mib(self) -> float:
        """Give the most memory that its processes ever had, MiB, all together."""
        return sum(peak_mib(process.popen.pid) for process in self._processes)

    def _prediction(
        self,
        image: NDArray[np.uint8],
        own_map: _Maps,
        score: float,
        local_grid: _Maps,
        global_grid: _Maps,
    ) -> Prediction:
        height, width = image.shape[:2]
        p_value, threshold = self.calibration.p_value(score), self.calibration.threshold
        common = (score, p_value, threshold, height, width, local_grid, global_grid)
        if (height, width) == (INPUT_SIZE, INPUT_SIZE):
            return AnomalibPrediction(*common, own_map)
        return Prediction(*common)


class _Process:
    """One process with one model."""

    def __init__(self, python: Path, folder: Path, settings: dict[str, str]) -> None:
        self.python = python
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - for its life
        reading, writing = os.pipe()
        self.answers: IO[bytes] = os.fdopen(reading, "rb")
        told = settings | {"weights": str(folder / _WEIGHTS), "answers": str(writing)}
        try:
            self.popen = subprocess.Popen(  # noqa: S603 - what the user asked for
                [_command(python), str(folder / _SCRIPT.name), json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=self.errors,
                stderr=self.errors,
                pass_fds=(writing,),
                env=_environment(),
            )
        except OSError as error:
            self.answers.close()
            self.errors.close()
            raise MissingDependencyError(
                "anomalib needs the Python of an environment that has it, got "
                f"{python} ({error.strerror}); give --anomalib another, or leave it out"
            ) from None
        finally:
            os.close(writing)
        weakref.finalize(self, _stop, self.popen, self.answers, self.errors)

    def wait_until_ready(self) -> dict[str, str]:
        """Wait until the model is open; give the versions of what runs it."""
        try:
            versions: dict[str, str] = json.loads(self.answers.readline())
        except ValueError:
            raise MissingDependencyError(
                f"anomalib's model cannot be opened by {self.python}: "
                f"{self._last_words()}; give --anomalib the Python of an environment "
                "that has anomalib, or leave it out"
            ) from None
        return versions

    def judge(self, pixels: NDArray[np.uint8]) -> list[_Maps]:
        """Give anomalib's own maps, raw local and raw global maps."""
        assert self.popen.stdin is not None
        n = len(pixels)
        grids = (n, GRID_SIZE, GRID_SIZE)
        answers: list[_Maps] = []
        try:
            self.popen.stdin.write(struct.pack("<Q", n))
            self.popen.stdin.write(np.ascontiguousarray(pixels).data)
            self.popen.stdin.flush()
            for shape in ((n, INPUT_SIZE, INPUT_SIZE), grids, grids):
                content = bytearray(self.answers.read(4 * math.prod(shape)))
                answers.append(np.frombuffer(content, np.float32).reshape(shape))
        except (OSError, ValueError):  # a broken pipe, or less than a whole answer
            raise ModelFileError(
                f"anomalib's process must answer, it ended: {self._last_words()}; "
                "leave --anomalib out, or give fewer images at once"
            ) from None
        return answers

    def _last_words(self) -> str:
        try:
            self.popen.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        said = lines[-1].strip()[:_LONGEST_REASON] if lines else "without a word"
        return f"{said} (code {self.popen.returncode})"


def _command(python: Path) -> str:
    """Name a Python that lies here, or is found as commands are."""
    return str(python.absolute() if python.exists() else python)


def _environment() -> dict[str, str]:
    """Give this process's own, without what would bring this package's libraries."""
    own = str(Path(efficientad.__file__).resolve().parents[1])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = os.pathsep.join(path for path in given if path and path != own)
    return os.environ | {"PYTHONPATH": kept}


def _stop(
    popen: subprocess.Popen[bytes], answers: IO[bytes], errors: IO[bytes]
) -> None:
    """End a process and let go of it."""
    popen.kill()
    popen.wait()
    answers.close()
    errors.close()
    if popen.stdin is not None:
        with suppress(OSError):  # what was still to be written cannot be any more
            popen.stdin.close()


def _weights(plain: BaselinePredictor) -> dict[str, Any]:
    """Name a detector's plain networks and numbers as anomalib does."""
    networks = plain.networks
    layers = {
        "teacher": [f"conv{i}" for i in range(1, 7)],
        "student": [f"conv{i}" for i in range(1, 7)],
        "autoencoder": [f"ae.encoder.enconv{i}" for i in range(1, 7)]
        + [f"ae.decoder.deconv{i}" for i in range(1, 9)],
    }
    named: dict[str, torch.Tensor] = {}
    for network, names in layers.items():
        prefix = "" if network == "autoencoder" else f"{network}."
        modules = getattr(networks, network)
        convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
        # A small patch description network has four of the six.
        for name, convolution in zip(names, convolutions, strict=False):
            for kind, values in convolution.state_dict().items():
                named[f"{prefix}{name}.{kind}"] = values
    shape = (1, -1, 1, 1)
    named |= {
        "mean_std.mean": networks.mean.view(shape),
        "mean_std.std": networks.std.view(shape),
    } | _quantiles(plain.calibration)
    return {name: values.float().cpu().numpy() for name, values in named.items()}


def _quantiles(calibration: Calibration) -> dict[str, torch.Tensor]:
    ours = {"st": calibration.local_quantiles, "ae": calibration.global_quantiles}
    return {
        f"quantiles.{end}_{kind}": torch.tensor(value)
        for kind, quantiles in ours.items()
        for end, value in (("qa", quantiles.low), ("qb", quantiles.high))
    }
