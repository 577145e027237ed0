"""Opens a model file with the engine it is made for."""

from pathlib import Path

from efficientad.errors import ConfigError, MissingDependencyError, ModelFileError
from efficientad.method.predictor import Predictor
from efficientad.training.config import Device, Runtime

DETECTOR_SUFFIX = ".ead"


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
            "`efficientad train`"
        )
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
