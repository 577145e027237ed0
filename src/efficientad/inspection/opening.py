"""Opens a model file with the engine it is made for."""

from pathlib import Path
from typing import Final

from efficientad.engines.exported import EngineName, require_counts
from efficientad.errors import ConfigError, ModelFileError, train_extra_is_missing
from efficientad.inspection.predictor import DetectorRuntime, Predictor
from efficientad.model_files.export_metadata import ONNX_SUFFIX, OPENVINO_SUFFIX
from efficientad.training.config import Device, Runtime

DETECTOR_SUFFIX = ".ead"
EXPORT_SUFFIXES = (ONNX_SUFFIX, OPENVINO_SUFFIX)
_SUFFIXES: Final = (DETECTOR_SUFFIX, *EXPORT_SUFFIXES)

_OF_DETECTORS: Final[dict[Runtime, DetectorRuntime]] = {
    "auto": "native",
    "native": "native",
    "native_bf16": "native_bf16",
    "pytorch": "pytorch",
}


def load_predictor(
    path: Path | str,
    *,
    device: Device = "auto",
    runtime: Runtime = "auto",
    n_streams: int = 1,
) -> Predictor:
    """Open a model file with the engine it is made for.

    Args:
        path: The model file: .ead, or an exported .onnx or .xml.
        device: Where the networks run. `cuda` runs an exported .onnx file by TensorRT.
        runtime: What computes them. For a .ead file: `native`, this package's layers,
            on the CPU; where they cannot be built PyTorch stands in, and a line says
            so; `native_bf16`, these with the 1 x 1 convolutions of the medium size in
            bf16, where the processor has such products; or `pytorch`. For an export:
            `onnxruntime`, `openvino` or `tensorrt`. `auto`: native on the CPU, PyTorch
            elsewhere; an export by the engine it is made for.
        n_streams: Predictions at the same time that an exported file's engine shall
            be ready for.

    Raises:
        ConfigError: If device, runtime and file exclude each other, or there is no
            stream.
        ModelFileError: If the file cannot be used.
        MissingDependencyError: If the engine is not installed.
    """
    require_counts(n_streams=n_streams)
    path = Path(path)
    require_model_file(path)
    if path.suffix in EXPORT_SUFFIXES:
        return _exported(path, device, runtime, n_streams)
    if runtime not in _OF_DETECTORS:
        raise ConfigError(
            f"runtime {runtime} runs exported files, got {path}; make one with "
            "`efficientad export`, or use runtime auto, native or pytorch"
        )
    return _detector(path, device, runtime)


def require_model_file(path: Path) -> None:
    """Refuse what no name of a model file stands for.

    Raises:
        ModelFileError: If there is no such file, or its ending is not one of a model.
    """
    if not path.is_file():
        raise ModelFileError(
            f"no model file at {path}: give a {DETECTOR_SUFFIX} file made by "
            "`efficientad train`, or one made by `efficientad export`"
        )
    suffix = path.suffix
    if suffix not in _SUFFIXES and suffix.lower() in _SUFFIXES:
        raise ModelFileError(
            f"a model file ends in {', '.join(_SUFFIXES)}, got {path.name}; rename it "
            f"to {path.stem}{suffix.lower()}"
        )
    model = path.with_suffix(OPENVINO_SUFFIX)
    if suffix.lower() == ".bin" and model.is_file():
        raise ModelFileError(
            f"{path} holds the weights of {model.name}; give that file, and leave this "
            "one beside it"
        )


def require_detector_file(path: Path) -> None:
    """Refuse what cannot be exported.

    Raises:
        ModelFileError: As `require_model_file`, or if it is an export already.
    """
    require_model_file(path)
    if path.suffix in EXPORT_SUFFIXES:
        raise ModelFileError(
            f"an export is made of a {DETECTOR_SUFFIX} file, {path} is an export "
            f"already; give the {DETECTOR_SUFFIX} file it was made of"
        )


def _detector(path: Path, device: Device, runtime: Runtime) -> Predictor:
    if runtime in {"native", "native_bf16"}:
        if device == "cuda":
            raise ConfigError(
                f"runtime {runtime} runs on the CPU, device cuda was asked for; "
                "use --device cpu, or --runtime pytorch"
            )
        device = "cpu"
    try:
        from efficientad.model_files import detector_file as model_file  # noqa: PLC0415 - needs torch
    except ModuleNotFoundError as error:
        if path.suffix != DETECTOR_SUFFIX:
            raise ModelFileError(
                f"a model file ends in {', '.join(_SUFFIXES)}, got {path}; give one of "
                "these"
            ) from error
        raise train_extra_is_missing(str(path), error) from error
    detector = model_file.load(path, device=device)
    detector.runtime = _OF_DETECTORS[runtime]
    return detector


def _exported(
    path: Path, device: Device, runtime: Runtime, n_streams: int
) -> Predictor:
    from efficientad.inspection.exported_predictor import ExportedPredictor  # noqa: PLC0415

    return ExportedPredictor(
        path, engine=_engine(path, device, runtime), n_streams=n_streams
    )


def _engine(path: Path, device: Device, runtime: Runtime) -> EngineName:
    """Choose what runs an export.

    Raises:
        ConfigError: If device, runtime and file exclude each other.
    """
    if runtime == "native" or runtime == "native_bf16" or runtime == "pytorch":  # noqa: PLR1714 - narrows the type
        raise ConfigError(
            f"runtime {runtime} runs {DETECTOR_SUFFIX} files, got {path}; use runtime "
            "auto, onnxruntime, openvino or tensorrt"
        )
    is_onnx = path.suffix == ONNX_SUFFIX
    engine: EngineName
    if runtime != "auto":
        engine = runtime
    elif device == "cuda":
        engine = "tensorrt"
    else:
        engine = "onnxruntime" if is_onnx else "openvino"
    if not is_onnx and engine != "openvino":
        raise ConfigError(
            f"{path} can be run by OpenVINO on the CPU, {engine} was asked for; export "
            f"an {ONNX_SUFFIX} file"
        )
    runs_on = "cuda" if engine == "tensorrt" else "cpu"
    if device not in {"auto", runs_on}:
        raise ConfigError(
            f"runtime {engine} runs on {runs_on}, device {device} was asked for; leave "
            "one of both at auto"
        )
    return engine
