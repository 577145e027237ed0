"""The candidates of a benchmark: model files, each with an engine."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from efficientad.engines.names import Device, EngineChoice, EngineName
from efficientad.errors import ConfigError
from efficientad.inspection.opening import (
    DETECTOR_SUFFIX,
    load,
    native_arrays,
)
from efficientad.inspection.predictor import Predictor
from efficientad.model_files.export_metadata import ONNX_SUFFIX, OPENVINO_SUFFIX
from efficientad_lab.benchmark.config import BenchmarkConfig

if TYPE_CHECKING:
    from efficientad.method.detector import Detector

BASELINE: Final = "baseline"
ANOMALIB: Final = "anomalib"


_EXPORT_SUFFIXES: Final = {"onnxruntime": ONNX_SUFFIX, "openvino": OPENVINO_SUFFIX}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model file and its engine, not yet open, so that any process can open it."""

    name: str
    """Name in tables: an engine, or a file."""
    path: Path
    device: Device = "auto"
    engine: EngineChoice = "auto"
    plain: Literal["fp32", "fp16"] | None = None
    """Precision of the plain networks, which run instead. None: the engine runs."""
    anomalib: Path | None = None
    """Python of anomalib, whose networks run instead. None: the engine runs."""

    @property
    def is_opened_for_streams(self) -> bool:
        """True if it must be opened for the number of predictions at the same time."""
        return self.engine != "pytorch" or self.anomalib is not None

    def open(self, *, n_streams: int = 1) -> Predictor:
        """Open the file with the engine.

        Args:
            n_streams: Number of predictions at the same time that the engine must be
                ready for; PyTorch's share its threads by themselves.

        Raises:
            ConfigError: If device, engine and file exclude each other.
            ModelFileError: If the file cannot be used.
            MissingDependencyError: If the engine is not installed.
        """
        # Torch is imported where it is needed: the memory of an export is measured.
        predictor = load(
            self.path, device=self.device, engine=self.engine, n_streams=n_streams
        )
        if self.anomalib is not None:
            from efficientad_lab.anomalib.engine import (  # noqa: PLC0415
                open_with_weights,
            )

            engine = open_with_weights(predictor, self.anomalib, n_streams=n_streams)
            return replace(
                predictor,
                engine=engine,
                calibration=replace(predictor.calibration, terms={}),  # maps alone
                provenance={**predictor.provenance, ANOMALIB: engine.versions},
            )
        if self.plain is not None:
            from efficientad_lab.benchmark.baseline import (  # noqa: PLC0415
                BaselineEngine,
            )

            assert predictor.detector is not None
            plain = BaselineEngine(predictor.detector, self.plain)
            return replace(predictor, engine=plain)
        return predictor


def candidates(
    model: Path, exports: Sequence[Path], config: BenchmarkConfig, folder: Path
) -> list[Candidate]:
    """Return the candidates of a benchmark, the baseline first.

    Args:
        model: A .ead file, for the baseline and every requested engine; or an exported
            file, which the others are then compared with.
        exports: Exported files.
        config: Settings.
        folder: Folder for temporary exports.

    Raises:
        ConfigError: If a requested engine does not work on this machine.
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


def _of_detector(model: Path, config: BenchmarkConfig, folder: Path) -> list[Candidate]:
    device = config.device
    predictor = load(model, device=device)
    assert predictor.detector is not None
    is_on_gpu = predictor.engine.device == "cuda"
    found = [Candidate(BASELINE, model, device, "pytorch", plain="fp32")]
    if is_on_gpu:  # the paper times half precision
        name = f"{BASELINE}, fp16"
        found.append(Candidate(name, model, device, "pytorch", plain="fp16"))
    if config.anomalib is not None:
        if not config.anomalib.exists() and shutil.which(config.anomalib) is None:
            raise ConfigError(
                "anomalib needs the Python of an environment that has it, "
                f"{config.anomalib} cannot be run; give --anomalib another, or leave it"
                " out"
            )
        peer = Candidate(ANOMALIB, model, device, "pytorch", anomalib=config.anomalib)
        found.append(peer)
    own = available_engines(predictor.detector)
    others: tuple[EngineName, ...] = () if is_on_gpu else ("onnxruntime", "openvino")
    for engine in config.engines or (*own, *others):
        if engine in _EXPORT_SUFFIXES:
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


def _exported(
    engine: EngineName, model: Path, device: Device, folder: Path
) -> Candidate:
    """Export the model for an engine."""
    from efficientad.exports.export import export  # noqa: PLC0415 - needs torch

    if device == "cuda":
        raise ConfigError(
            f"engine {engine} runs on the CPU, device cuda was asked for; leave "
            f"{engine} out of --engines, or --device at auto"
        )
    path = folder / f"{engine}{_EXPORT_SUFFIXES[engine]}"
    export(load(model, device="cpu"), path)
    return Candidate(engine, path, device, engine)
