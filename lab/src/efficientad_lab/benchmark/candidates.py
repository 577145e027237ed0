"""What a benchmark compares: model files, each with what runs it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast

from efficientad.errors import ConfigError
from efficientad.inspection.opening import (
    DETECTOR_SUFFIX,
    EXPORT_SUFFIXES,
    load_predictor,
)
from efficientad.inspection.predictor import Predictor
from efficientad.model_files.export_metadata import (
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
    Precision,
)
from efficientad.training.config import Device, Runtime
from efficientad_lab.benchmark.config import BenchmarkConfig, BenchmarkRuntime

if TYPE_CHECKING:
    from efficientad.method.detector import Detector

BASELINE: Final = "baseline"
ANOMALIB: Final = "anomalib"


class _ForTheOccasion(NamedTuple):
    """An export that is made to be measured."""

    suffix: str
    engine: Runtime
    runs_on: Literal["cpu", "cuda"]
    packages: tuple[str, ...]
    """What making and running it takes."""


_EXPORTS: Final[dict[BenchmarkRuntime, _ForTheOccasion]] = {
    "onnx": _ForTheOccasion(ONNX_SUFFIX, "onnxruntime", "cpu", ("onnx", "onnxruntime")),
    "openvino": _ForTheOccasion(
        OPENVINO_SUFFIX, "openvino", "cpu", ("onnx", "onnxruntime", "openvino")
    ),
    "tensorrt": _ForTheOccasion(
        ONNX_SUFFIX, "tensorrt", "cuda", ("onnx", "onnxruntime", "tensorrt", "cuda")
    ),
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A model file and what runs it; not open yet, so that any process can do it."""

    name: str
    """In tables: a runtime, or a file."""
    path: Path
    device: Device = "auto"
    runtime: Runtime = "auto"
    plain: Literal["fp32", "fp16"] | None = None
    """Run the plain networks instead, in this precision."""
    anomalib: Path | None = None
    """Run anomalib's networks instead, by this Python."""

    @property
    def is_exported(self) -> bool:
        """Whether an engine runs the file."""
        return self.path.suffix in EXPORT_SUFFIXES

    @property
    def is_set_up_for_streams(self) -> bool:
        """Whether it is opened for a number of predictions at the same time."""
        return self.is_exported or self.anomalib is not None

    @property
    def is_for_tensorrt(self) -> bool:
        """Whether that engine is TensorRT, on CUDA."""
        return self.is_exported and (
            self.runtime == "tensorrt" or self.device == "cuda"
        )

    def open(self, *, n_streams: int = 1) -> Predictor:
        """Load it.

        Args:
            n_streams: Predictions at the same time that an exported file's engine, or
                anomalib, shall be ready for.

        Raises:
            ConfigError: If device, runtime and file exclude each other.
            ModelFileError: If the file cannot be used.
            MissingDependencyError: If the engine is not installed.
        """
        if self.anomalib is not None:
            from efficientad_lab.benchmark.anomalib_peer import (  # noqa: PLC0415 - needs torch
                AnomalibPredictor,
            )

            detector = load_predictor(self.path, device=self.device, runtime="pytorch")
            return AnomalibPredictor(
                cast("Detector", detector), self.anomalib, n_streams=n_streams
            )
        predictor = load_predictor(
            self.path, device=self.device, runtime=self.runtime, n_streams=n_streams
        )
        if self.plain is None:
            return predictor
        from efficientad_lab.benchmark.baseline import (  # noqa: PLC0415 - needs torch
            BaselinePredictor,
        )

        return BaselinePredictor(cast("Detector", predictor), self.plain)


def contenders(
    model: Path, exports: Sequence[Path], config: BenchmarkConfig, folder: Path
) -> list[Contender]:
    """Name what is compared, the baseline first.

    Args:
        model: A .ead file, which brings the baseline and every runtime asked for; or an
            exported one, which the others are then compared with.
        exports: Exported files.
        config: Settings.
        folder: Where an export for the occasion is written.

    Raises:
        ConfigError: If a runtime is asked for that this machine does not have.
        ModelFileError: If `model` cannot be used.
        MissingDependencyError: If a package of a runtime is not installed.
    """
    found = [Contender(path.name, path, config.device) for path in exports]
    if model.suffix == DETECTOR_SUFFIX:
        return [*_of_detector(model, config, folder), *found]
    if config.anomalib is not None:
        raise ConfigError(
            f"anomalib needs the weights of a {DETECTOR_SUFFIX} file, got {model}; "
            "give the one it was exported from, or leave --anomalib out"
        )
    if config.runtimes is not None:
        raise ConfigError(
            f"{model} runs on the engine it was made for, runtimes "
            f"{', '.join(config.runtimes)} were asked for; give the "
            f"{DETECTOR_SUFFIX} file, or leave --runtimes out"
        )
    return [Contender(model.name, model, config.device), *found]


def _of_detector(model: Path, config: BenchmarkConfig, folder: Path) -> list[Contender]:
    device = config.device
    detector = cast("Detector", load_predictor(model, device=device))
    is_on_gpu = detector.device.type == "cuda"
    found = [Contender(BASELINE, model, device, "pytorch", "fp32")]
    if is_on_gpu:
        # Half precision is what the paper times.
        found.append(Contender(f"{BASELINE}, fp16", model, device, "pytorch", "fp16"))
    if config.anomalib is not None:
        if not config.anomalib.exists() and shutil.which(config.anomalib) is None:
            raise ConfigError(
                "anomalib needs the Python of an environment that has it, "
                f"{config.anomalib} cannot be run; give --anomalib another, or leave it"
                " out"
            )
        found.append(Contender(ANOMALIB, model, device, anomalib=config.anomalib))
    for runtime in config.runtimes or _available(detector):
        if runtime == "onnx" or runtime == "openvino" or runtime == "tensorrt":  # noqa: PLR1714 - narrows the type
            found.append(_exported(runtime, model, device, folder))
            continue
        if not is_on_gpu and runtime not in detector.runtimes:
            needed = "a C++ compiler, or a detector it can compute"
            if runtime == "native_bf16" and "native" in detector.runtimes:
                needed = "a detector of size medium and a processor with AVX512_BF16"
            raise ConfigError(
                f"runtime {runtime} needs {needed}; see `efficientad doctor`, or leave "
                f"{runtime} out of --runtimes"
            )
        found.append(Contender(runtime, model, device, runtime))
    return found


def _exported(
    runtime: BenchmarkRuntime, model: Path, device: Device, folder: Path
) -> Contender:
    from efficientad.exports.export import export  # noqa: PLC0415 - needs torch

    made = _EXPORTS[runtime]
    if device not in {"auto", made.runs_on}:
        raise ConfigError(
            f"runtime {runtime} runs on {made.runs_on}, device {device} was asked for; "
            f"leave {runtime} out of --runtimes, or --device at auto"
        )
    path = folder / f"{runtime}{made.suffix}"
    # Half precision on a GPU, as the paper. The export is made and compared on the CPU.
    precision: Precision = "fp16" if made.runs_on == "cuda" else "fp32"
    detector = cast("Detector", load_predictor(model, device="cpu"))
    export(detector, path, precision=precision)
    return Contender(runtime, path, device, made.engine)


def _available(detector: "Detector") -> list[BenchmarkRuntime]:
    return [
        *detector.runtimes,
        *(
            runtime
            for runtime, made in _EXPORTS.items()
            if made.runs_on == detector.device.type
            and all(find_spec(name) is not None for name in made.packages)
        ),
    ]
