"""Machine and versions of a recorded measurement."""

import os
import platform
from importlib import metadata
from typing import Any, Final

import efficientad
from efficientad.cli.environment import commit, machine

_PACKAGES: Final = ("numpy", "scipy", "torch", "onnxruntime", "openvino", "nncf")


def environment() -> dict[str, Any]:
    """Return machine, load, versions and commit for the record of a run."""
    return {
        "machine": machine(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "versions": versions(),
        "commit": commit(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the packages that compute."""
    found = {
        "python": platform.python_version(),
        "efficientad": efficientad.__version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
