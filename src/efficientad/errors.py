"""Every exception raised on purpose.

    EfficientADError
      + ConfigError            a setting outside its documented range
      + ImageError             a picture that cannot be read or used
      + DatasetError           a folder or list of pictures that does not fit the job
      + ModelFileError         a model, teacher or checkpoint file that cannot be used
      + ExportMismatchError    an export that does not give the detector's maps
      + NotCalibratedError     maps asked from a detector without calibration
      + TrainingError          a training that cannot go on
      + UndefinedMetricError   a metric without a defined value for this data
      + ResultError            recorded runs that cannot be used, or that are missing
      + StorageError           a file that cannot be written or read
      + MissingDependencyError a package of an extra that is not installed

A message says what was needed, what came and what to do; lower case, no full stop. The
command line prints it as one line and exits with code 2.
"""

from typing import Final

TRAIN_EXTRA: Final = frozenset({"jaxtyping", "scipy", "skimage", "sklearn", "torch"})
"""Modules that the extra `train` brings."""


class EfficientADError(Exception):
    """Root of all errors that are raised on purpose."""


class ConfigError(EfficientADError, ValueError):
    """A setting is outside its documented range, or two settings exclude each other."""


class ImageError(EfficientADError, ValueError):
    """A picture cannot be read, or is not one this package can judge."""


class DatasetError(EfficientADError, ValueError):
    """A folder or list of pictures does not fit the job."""


class ModelFileError(EfficientADError, ValueError):
    """A model, teacher, source network or checkpoint file cannot be used."""


class ExportMismatchError(EfficientADError, ValueError):
    """An export gives other maps than PyTorch, or loses too much accuracy."""


class NotCalibratedError(EfficientADError, RuntimeError):
    """Normalized maps or a decision were asked from a detector without calibration."""


class TrainingError(EfficientADError, RuntimeError):
    """A training or distillation cannot go on, for example by a non-finite loss."""


class UndefinedMetricError(EfficientADError, ValueError):
    """A metric has no defined value for this data."""


class ResultError(EfficientADError, ValueError):
    """A recorded run cannot be used, or one that is needed is missing."""


class StorageError(EfficientADError, OSError):
    """A file cannot be written or read, for example on a full disk."""


class MissingDependencyError(EfficientADError, ImportError):
    """A package is not installed; the message names the extra that brings it."""


def train_extra_is_missing(
    what: str, missing: ModuleNotFoundError
) -> MissingDependencyError:
    """Say which package of the extra `train` something needs, and how to get it."""
    package = "PyTorch" if missing.name == "torch" else missing.name
    return MissingDependencyError(
        f"{what} needs {package}, which is not installed; "
        "run: pip install 'efficientad[train]'"
    )
