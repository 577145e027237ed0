"""What a benchmark compares: model files, each with what runs it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from efficientad.engines.names import Device, EngineChoice
from efficientad.errors import ConfigError
from efficientad.inspection.opening import (
    DETECTOR_SUFFIX,
    load,
    native_arrays,
)
from efficientad.inspection.predictor import Predictor
from efficientad.model_files.export_metadata import ONNX_SUFFIX, OPENVINO_SUFFIX
from efficientad_lab.benchmark.config import BenchmarkConfig, BenchmarkEngine

if TYPE_CHECKING:
    from efficientad.method.detector import Detector

BASELINE: Final = "baseline"
ANOMALIB: Final = "anomalib"


class _TemporaryExport(NamedTuple):
    """An export that is made to be measured."""

    suffix: str
    engine: EngineChoice
    packages: tuple[str, ...]
    """What making and running it takes."""


_EXPORTS: Final[dict[BenchmarkEngine, _TemporaryExport]] = {
    "onnx": _TemporaryExport(ONNX_SUFFIX, "onnxruntime", ("onnx", "onnxruntime")),
    "openvino": _TemporaryExport(
        OPENVINO_SUFFIX, "openvino", ("onnx", "onnxruntime", "openvino")
    ),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model file and what runs it; not open yet, so that any process can do it."""

    name: str
    """In tables: a runtime, or a file."""
    path: Path
    device: Device = "auto"
    engine: EngineChoice = "auto"
    plain: Literal["fp32", "fp16"] | None = None
    """Run the plain networks instead, in this precision."""
    anomalib: Path | None = None
    """Run anomalib's networks instead, by this Python."""

    @property
    def is_set_up_for_streams(self) -> bool:
        """Whether it is opened for a number of predictions at the same time."""
        return self.engine != "pytorch"

    def open(self, *, n_streams: int = 1) -> Predictor:
        """Load it.

        Args:
            n_streams: Predictions at the same time that the engine shall be ready for;
                those of PyTorch share its threads by themselves.

        Raises:
            ConfigError: If device, runtime and file exclude each other.
            ModelFileError: If the file cannot be used.
            MissingDependencyError: If the engine is not installed.
        """
        if self.anomalib is not None:
            from efficientad_lab.benchmark.anomalib_peer import (  # noqa: PLC0415 - needs torch
                AnomalibEngine,
            )

            predictor = load(self.path, device=self.device, engine="pytorch")
            engine = AnomalibEngine(predictor, self.anomalib, n_streams=n_streams)
            return replace(predictor, engine=engine)
        predictor = load(
            self.path, device=self.device, engine=self.engine, n_streams=n_streams
        )
        if self.plain is None:
            return predictor
        from efficientad_lab.benchmark.baseline import (  # noqa: PLC0415 - needs torch
            BaselineEngine,
        )

        assert predictor.detector is not None
        plain = BaselineEngine(predictor.detector, self.plain)
        return replace(predictor, engine=plain)


def candidates(
    model: Path, exports: Sequence[Path], config: BenchmarkConfig, folder: Path
) -> list[Candidate]:
    """Name what is compared, the baseline first.

    Args:
        model: A .ead file, which brings the baseline and every runtime asked for; or an
            exported one, which the others are then compared with.
        exports: Exported files.
        config: Settings.
        folder: Where an export for the occasion is written.

    Raises:
        ConfigError: If an engine is asked for that this machine does not have.
        ModelFileError: If `model` cannot be used.
        MissingDependencyError: If a package of an engine is not installed.
    """
    found = [Candidate(path.name, path, config.device) for path in exports]
    if model.suffix == DETECTOR_SUFFIX:
        return [*_of_detector(model, config, folder), *found]
    if config.anomalib is not None:
        raise ConfigError(
            f"anomalib needs the weights of a {DETECTOR_SUFFIX} file, got {model}; "
            "give the one it was exported from, or leave --anomalib out"
        )
    if config.engines is not None:
        raise ConfigError(
            f"{model} runs on the engine it was made for, engines "
            f"{', '.join(config.engines)} were asked for; give the "
            f"{DETECTOR_SUFFIX} file, or leave --engines out"
        )
    return [Candidate(model.name, model, config.device), *found]


def _of_detector(model: Path, config: BenchmarkConfig, folder: Path) -> list[Candidate]:
    device = config.device
    predictor = load(model, device=device)
    assert predictor.detector is not None
    is_on_gpu = predictor.detector.device.type == "cuda"
    found = [Candidate(BASELINE, model, device, "pytorch", "fp32")]
    if is_on_gpu:
        # Half precision is what the paper times.
        found.append(Candidate(f"{BASELINE}, fp16", model, device, "pytorch", "fp16"))
    if config.anomalib is not None:
        if not config.anomalib.exists() and shutil.which(config.anomalib) is None:
            raise ConfigError(
                "anomalib needs the Python of an environment that has it, "
                f"{config.anomalib} cannot be run; give --anomalib another, or leave it"
                " out"
            )
        found.append(Candidate(ANOMALIB, model, device, anomalib=config.anomalib))
    own = available_engines(predictor.detector)
    for engine in config.engines or [*own, *_available_exports(is_on_gpu=is_on_gpu)]:
        if engine == "onnx" or engine == "openvino":  # noqa: PLR1714 - narrows the type
            found.append(_exported(engine, model, device, folder))
            continue
        if not is_on_gpu and engine not in own:
            needed = "a C++ compiler, or a detector it can compute"
            if engine == "native_bf16" and "native" in own:
                needed = "a detector of size medium and a processor with AVX512_BF16"
            raise ConfigError(
                f"engine {engine} needs {needed}; see `efficientad doctor`, or leave "
                f"{engine} out of --engines"
            )
        found.append(Candidate(engine, model, device, engine))
    return found


def available_engines(
    detector: "Detector",
) -> tuple[Literal["native", "native_bf16", "pytorch"], ...]:
    """Return the engines that run a detector here, each with its own speed."""
    from efficientad.kernels import layers  # noqa: PLC0415 - builds them

    if native_arrays(detector) is None:
        return ("pytorch",)
    if detector.size == "medium" and layers.has_bf16():
        return "native", "native_bf16", "pytorch"
    return "native", "pytorch"


def _exported(
    engine: Literal["onnx", "openvino"], model: Path, device: Device, folder: Path
) -> Candidate:
    from efficientad.exports.export import export  # noqa: PLC0415 - needs torch

    made = _EXPORTS[engine]
    if device == "cuda":
        raise ConfigError(
            f"engine {engine} runs on the CPU, device cuda was asked for; leave "
            f"{engine} out of --engines, or --device at auto"
        )
    path = folder / f"{engine}{made.suffix}"
    export(load(model, device="cpu"), path)
    return Candidate(engine, path, device, made.engine)


def _available_exports(*, is_on_gpu: bool) -> list[BenchmarkEngine]:
    if is_on_gpu:
        return []
    return [
        engine
        for engine, made in _EXPORTS.items()
        if all(find_spec(name) is not None for name in made.packages)
    ]
