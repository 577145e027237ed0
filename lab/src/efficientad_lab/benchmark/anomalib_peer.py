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
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import efficientad
from efficientad.engines.engine import EngineOutput, Precision
from efficientad.errors import MissingDependencyError, ModelFileError
from efficientad.images.rgb import INPUT_SIZE
from efficientad.inspection.predictor import Predictor
from efficientad.method.decision import Calibration
from efficientad.method.sizes import GRID_SIZE
from efficientad_lab.benchmark.baseline import Baseline, BaselineEngine
from efficientad_lab.benchmark.memory import peak_mib

_SCRIPT: Final = Path(__file__).with_name("anomalib_process.py")
_WEIGHTS: Final = "weights.npz"
_SECONDS_TO_END: Final = 10
_LONGEST_REASON: Final = 300
_Maps = NDArray[np.float32]


class AnomalibEngine:
    """anomalib's model of EfficientAD, in single precision, as an engine.

    Its raw maps are those that the model enlarges. The enlarged maps, which anomalib
    computes too, come through the pipe and are dropped.

    Args:
        predictor: Trained model; weights and scales are copied.
        python: The Python of an environment that has anomalib.
        n_streams: Processes, between which the threads are shared.

    Raises:
        MissingDependencyError: If that Python cannot be run, or cannot open the model.
    """

    is_concurrent = True
    precision: Precision = "fp32"

    def __init__(
        self, predictor: Predictor, python: Path, *, n_streams: int = 1
    ) -> None:
        assert predictor.detector is not None
        plain = BaselineEngine(predictor.detector)
        self.device = plain.device
        settings = {
            "size": predictor.size,
            "device": self.device,
            "threads": str(max(1, torch.get_num_threads() // n_streams)),
        }
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # Alone: beside the original lie modules that would hide those of libraries.
            shutil.copy(_SCRIPT, folder)
            weights = _weights(plain.networks, predictor.calibration)
            np.savez(folder / _WEIGHTS, **weights)
            processes = [_Process(python, folder, settings) for _ in range(n_streams)]
            for process in processes:
                self.versions = process.wait_until_ready()
                self._idle.put(process)
        self._processes = tuple(processes)

    def run(self, pixels: NDArray[np.uint8]) -> EngineOutput:
        """Compute the raw maps of a batch, (n, 256, 256, 3).

        Raises:
            ModelFileError: If the process does not answer.
        """
        process = self._idle.get()
        try:
            _, local, global_ = process.run(pixels)
        finally:
            self._idle.put(process)
        return EngineOutput({"local": local, "global": global_})

    def peak_mib(self) -> float:
        """Return the largest memory of its processes so far, MiB, all together."""
        return sum(peak_mib(process.popen.pid) for process in self._processes)


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

    def run(self, pixels: NDArray[np.uint8]) -> list[_Maps]:
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


def _weights(networks: Baseline, calibration: Calibration) -> dict[str, Any]:
    """Name a detector's plain networks and numbers as anomalib does."""
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
    } | _quantiles(calibration)
    return {name: values.float().cpu().numpy() for name, values in named.items()}


def _quantiles(calibration: Calibration) -> dict[str, torch.Tensor]:
    ours = {"st": calibration.scales["local"], "ae": calibration.scales["global"]}
    return {
        f"quantiles.{end}_{kind}": torch.tensor(value)
        for kind, scale in ours.items()
        for end, value in (("qa", scale.low), ("qb", scale.high))
    }
