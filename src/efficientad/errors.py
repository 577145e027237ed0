"""All exceptions that are raised on purpose.

A message names what was needed, what came and what to do, in lower case and without a
full stop. The command line prints it as one line and exits with code 2.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

TRAIN_EXTRA: Final = frozenset({"jaxtyping", "jinja2", "scipy", "torch"})
"""Top-level modules that the extra `train` installs."""

_PACKAGES: Final = {
    "pyarrow": "PyArrow",
    "ray": "Ray",
    "sklearn": "scikit-learn",
    "torch": "PyTorch",
}
"""Names of packages whose modules have others."""

_PATH_REMEDIES: Final = {
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ELOOP: "remove the link, or use another path",
}


class EfficientADError(Exception):
    """Root of all errors that are raised on purpose."""


class ConfigError(EfficientADError, ValueError):
    """A setting is outside its documented range, or two settings exclude each other."""


class ImageError(EfficientADError, ValueError):
    """An image cannot be read, or not be used."""


class DatasetError(EfficientADError, ValueError):
    """A folder or list of images does not fit the job."""


class ModelFileError(EfficientADError, ValueError):
    """A model, teacher, source network or checkpoint file cannot be used."""


class ExportMismatchError(EfficientADError, ValueError):
    """An export gives other maps than PyTorch, or loses too much accuracy."""


class TrainingError(EfficientADError, RuntimeError):
    """A training or distillation cannot go on, for example by a non-finite loss."""


class UndefinedMetricError(EfficientADError, ValueError):
    """A metric has no defined value for this data."""


class ResultError(EfficientADError, ValueError):
    """A recorded run cannot be used, or a needed one is missing."""


class StorageError(EfficientADError, OSError):
    """A file cannot be written or read, for example on a full disk."""


def path_error(error: OSError) -> StorageError | None:
    """Return the error for a path that cannot be used; None for another cause."""
    if error.filename is None:
        return None
    reason = f"{error.filename} ({error.strerror})"
    if isinstance(error, PermissionError):
        return StorageError(f"cannot enter or read {reason}; check its permissions")
    if error.errno in _PATH_REMEDIES:
        remedy = _PATH_REMEDIES[error.errno]
        return StorageError(f"cannot use {reason}; {remedy}")
    return None


class MissingDependencyError(EfficientADError, ImportError):
    """A package is not installed; the message names the extra that installs it."""


@contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Raise `MissingDependencyError` where the block misses a package of an extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise extra_is_missing(what, extra, error) from error


def extra_is_missing(
    what: str, extra: str, missing: ModuleNotFoundError
) -> MissingDependencyError:
    """Return the error for something that needs a package of an extra."""
    name = str(missing.name)
    return MissingDependencyError(
        f"{what} needs {_PACKAGES.get(name, name)}, which is not installed; "
        f"run: pip install 'efficientad[{extra}]'"
    )
