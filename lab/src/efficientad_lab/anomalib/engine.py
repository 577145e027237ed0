"""Models of anomalib as engines.

anomalib lives in an environment of its own, so each model is a process of that
environment's Python (`process.py`), which gets pixels and returns maps through pipes: a
quarter of a MiB for an image, far below a millisecond.
"""

import json
import math
import os
import queue
import shutil
import struct
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import efficientad
from efficientad.decisions.decision import Calibration
from efficientad.engines.engine import EngineOutput, Pixels, Precision
from efficientad.errors import MissingDependencyError, ModelFileError
from efficientad.inspection.predictor import Predictor
from efficientad_lab.benchmark.baseline import Baseline, BaselineEngine
from efficientad_lab.benchmark.memory import peak_mib

_HERE: Final = Path(__file__).resolve().parent
_SCRIPTS: Final = ("process.py", "training.py")
_WEIGHTS: Final = "weights.npz"
_SECONDS_TO_END: Final = 10
_LONGEST_REASON: Final = 300
_REMEDY: Final = (
    "`make peers` builds an environment with anomalib; give its Python, or leave "
    "anomalib out"
)


class AnomalibEngine:
    """A model of anomalib in processes of another Python.

    Args:
        python: Python of an environment with anomalib.
        settings: Settings of `process.py`, without threads and pipe.
        arrays: Weights, written to a file for the process. None: no weights.
        device: Device of the model.
        n_streams: Number of processes; they share the threads.
        limit_seconds: Longest time until a model is ready. None: no limit.

    Raises:
        MissingDependencyError: If that Python cannot be run, or cannot open the model.
    """

    is_concurrent = True
    precision: Precision = "fp32"

    def __init__(
        self,
        python: Path,
        settings: Mapping[str, Any],
        arrays: Mapping[str, Any] | None = None,
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        n_streams: int = 1,
        limit_seconds: float | None = None,
    ) -> None:
        self.device = device
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        given = {
            **settings,
            "device": device,
            "threads": max(1, torch.get_num_threads() // n_streams),
        }
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # Copied: modules beside the originals would hide those of libraries.
            for script in _SCRIPTS:
                shutil.copy(_HERE / script, folder)
            if arrays is not None:
                given["weights"] = str(folder / _WEIGHTS)
                np.savez(folder / _WEIGHTS, **arrays)
            processes = [_Process(python, folder, given) for _ in range(n_streams)]
            for process in processes:
                self.facts = process.wait_until_ready(limit_seconds)
                self._idle.put(process)
        self._processes = tuple(processes)

    @property
    def versions(self) -> dict[str, str]:
        """Versions of anomalib and its libraries."""
        return dict(self.facts["versions"])

    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute the maps of a batch, (n, 256, 256, 3).

        Raises:
            ModelFileError: If the process does not answer.
        """
        process = self._idle.get()
        try:
            outputs = process.run(pixels, self.facts["outputs"])
        finally:
            self._idle.put(process)
        return EngineOutput(
            grids={name: o for name, o in outputs.items() if o.ndim > 2},  # noqa: PLR2004 - n, rows, columns
            values={name: o for name, o in outputs.items() if o.ndim == 2},  # noqa: PLR2004 - n, length
        )

    def peak_mib(self) -> float:
        """Return the peak memory of its processes, MiB, all together."""
        return sum(peak_mib(process.popen.pid) for process in self._processes)


def open_with_weights(
    predictor: Predictor, python: Path, *, n_streams: int = 1
) -> AnomalibEngine:
    """Open anomalib's EfficientAd with the weights of a trained model.

    Args:
        predictor: Trained model with its networks; weights and scales are copied.
        python: Python of an environment with anomalib.
        n_streams: Number of processes.

    Raises:
        MissingDependencyError: If that Python cannot be run, or cannot open the model.
    """
    assert predictor.detector is not None
    plain = BaselineEngine(predictor.detector)
    weights = _weights(plain.networks, predictor.calibration)
    return AnomalibEngine(
        python,
        {"size": predictor.size},
        weights,
        device=plain.device,
        n_streams=n_streams,
    )


class _Process:
    """One process with one model."""

    def __init__(self, python: Path, folder: Path, settings: Mapping[str, Any]) -> None:
        self.python = python
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives on
        reading, writing = os.pipe()
        self.answers: IO[bytes] = os.fdopen(reading, "rb")
        given = json.dumps({**settings, "answers": writing})
        try:
            self.popen = subprocess.Popen(  # noqa: S603 - what the user asked for
                [_command(python), str(folder / _SCRIPTS[0]), given],
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
                f"{python} ({error.strerror}); {_REMEDY}"
            ) from None
        finally:
            os.close(writing)
        weakref.finalize(self, _stop, self.popen, self.answers, self.errors)

    def wait_until_ready(self, limit_seconds: float | None) -> dict[str, Any]:
        """Wait until the model is open, and return the facts about it."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.popen.kill()

        timer = threading.Timer(limit_seconds or 0, expire)
        if limit_seconds is not None:
            timer.start()
        try:
            facts: dict[str, Any] = json.loads(self.answers.readline())
        except ValueError:
            reason = self._last_words()
            if expired.is_set():
                reason = f"not ready after {limit_seconds:.0f} s"
            raise MissingDependencyError(
                f"anomalib's model cannot be opened by {self.python}: {reason}; "
                f"{_REMEDY}"
            ) from None
        finally:
            timer.cancel()
        return facts

    def run(
        self, pixels: Pixels, sizes: Mapping[str, list[int]]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the outputs of a batch by name."""
        assert self.popen.stdin is not None
        outputs = {}
        try:
            self.popen.stdin.write(struct.pack("<Q", len(pixels)))
            self.popen.stdin.write(np.ascontiguousarray(pixels).data)
            self.popen.stdin.flush()
            for name, size in sizes.items():
                shape = (len(pixels), *size)
                content = bytearray(self.answers.read(4 * math.prod(shape)))
                outputs[name] = np.frombuffer(content, np.float32).reshape(shape)
        except (OSError, ValueError):  # a broken pipe, or part of an answer
            raise ModelFileError(
                f"anomalib's process must answer, it ended: {self._last_words()}; "
                "give fewer images at once, or leave anomalib out"
            ) from None
        return outputs

    def _last_words(self) -> str:
        """Return the last line of the process's errors, and its exit code."""
        try:
            self.popen.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        last = lines[-1].strip()[:_LONGEST_REASON] if lines else "without a word"
        return f"{last} (code {self.popen.returncode})"


def _command(python: Path) -> str:
    """Return the path of a Python, or a name to be found on the PATH."""
    return str(python.absolute() if python.exists() else python)


def _environment() -> dict[str, str]:
    """Return this process's environment, without this package on the PYTHONPATH."""
    own = str(Path(efficientad.__file__).resolve().parents[1])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = os.pathsep.join(path for path in paths if path and path != own)
    return os.environ | {"PYTHONPATH": others}


def _stop(
    popen: subprocess.Popen[bytes], answers: IO[bytes], errors: IO[bytes]
) -> None:
    """End a process and close its pipes."""
    popen.kill()
    popen.wait()
    answers.close()
    errors.close()
    if popen.stdin is not None:
        with suppress(OSError):  # unwritten bytes are lost
            popen.stdin.close()


def _weights(networks: Baseline, calibration: Calibration) -> dict[str, Any]:
    """Return plain networks and calibration under anomalib's names."""
    pdn = [f"conv{i}" for i in range(1, 7)]
    encoder = [f"ae.encoder.enconv{i}" for i in range(1, 7)]
    decoder = [f"ae.decoder.deconv{i}" for i in range(1, 9)]
    named: dict[str, torch.Tensor] = {}
    for network, names in (
        (networks.teacher, [f"teacher.{name}" for name in pdn]),
        (networks.student, [f"student.{name}" for name in pdn]),
        (networks.autoencoder, encoder + decoder),
    ):
        convolutions = [m for m in network if isinstance(m, nn.Conv2d)]
        # A small patch description network has four of the six.
        for name, convolution in zip(names, convolutions, strict=False):
            for kind, values in convolution.state_dict().items():
                named[f"{name}.{kind}"] = values
    shape = (1, -1, 1, 1)
    named["mean_std.mean"] = networks.mean.view(shape)
    named["mean_std.std"] = networks.std.view(shape)
    for kind, scale in (("st", "local"), ("ae", "global")):
        named[f"quantiles.qa_{kind}"] = torch.tensor(calibration.scales[scale].low)
        named[f"quantiles.qb_{kind}"] = torch.tensor(calibration.scales[scale].high)
    return {name: values.float().cpu().numpy() for name, values in named.items()}
