"""Opens a model file with the engine it is made for."""

from pathlib import Path

from efficientad.errors import ConfigError, MissingDependencyError, ModelFileError
from efficientad.method.predictor import Predictor
from efficientad.training.config import Device, Runtime

DETECTOR_SUFFIX, ONNX_SUFFIX = ".ead", ".onnx"


def load_predictor(
    path: Path, *, device: Device = "auto", runtime: Runtime = "auto"
) -> Predictor:
    """Open a model file with the engine it is made for.

    Args:
        path: The model file.
        device: Where the networks run.
        runtime: What computes them. `native`: this package's layers, on the CPU; where
            they cannot be built PyTorch stands in, and a line says so. `auto`: native
            on the CPU, PyTorch elsewhere.

    Raises:
        ConfigError: If device and runtime exclude each other.
        ModelFileError: If the file cannot be used.
        MissingDependencyError: If the engine is not installed.
    """
    if runtime == "native":
        if device == "cuda":
            raise ConfigError(
                "runtime native runs on the CPU, device cuda was asked for; "
                "use --device cpu, or --runtime pytorch"
            )
        device = "cpu"
    if not path.is_file():
        raise ModelFileError(
            f"no model file at {path}: give a {DETECTOR_SUFFIX} file made by "
            "`efficientad train`, or one made by `efficientad export`"
        )
    if path.suffix == ONNX_SUFFIX:
        return _exported(path, device, runtime)
    try:
        from efficientad.training import model_file  # noqa: PLC0415 - needs torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path} needs PyTorch, which is not installed; "
            "run: pip install 'efficientad[train]'"
        ) from error
    detector = model_file.load(path, device=device)
    detector.prefers_native = runtime != "pytorch"
    return detector


def _exported(path: Path, device: Device, runtime: Runtime) -> Predictor:
    if device == "cuda" or runtime != "auto":
        raise ConfigError(
            f"{path} runs on ONNX Runtime and the CPU, device {device} and runtime "
            f"{runtime} were asked for; leave both at auto, or give the .ead file"
        )
    from efficientad.deployment.onnx_runtime import OnnxPredictor  # noqa: PLC0415

    return OnnxPredictor(path)
