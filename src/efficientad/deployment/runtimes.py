"""Opens a model file with the engine it is made for."""

from pathlib import Path

from efficientad.errors import MissingDependencyError, ModelFileError
from efficientad.method.predictor import Predictor
from efficientad.training.config import Device

DETECTOR_SUFFIX = ".ead"


def load_predictor(path: Path, *, device: Device = "auto") -> Predictor:
    """Open a model file with the engine it is made for.

    Raises:
        ModelFileError: If the file cannot be used.
        MissingDependencyError: If the engine is not installed.
    """
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
    return model_file.load(path, device=device)
