"""The facts that `efficientad doctor` prints."""

import platform
from collections.abc import Callable
from functools import partial
from typing import get_args

from efficientad import __version__
from efficientad.cores import default_threads
from efficientad.errors import EfficientADError, train_extra_is_missing
from efficientad.kernels import layers, native
from efficientad.method.sizes import ModelSize


def findings() -> dict[str, str]:
    """Return versions, devices, kernels and shipped teachers by name."""
    found = {
        "efficientad": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "CPU threads": str(default_threads()),
        "prediction on CPU": layers.description(),
        "kernel cache": _found(lambda: str(native.cache_folder())),
    }
    try:
        return found | _of_training()
    except ModuleNotFoundError as error:
        return found | {"training": str(train_extra_is_missing("it", error))}


def _of_training() -> dict[str, str]:
    import torch

    from efficientad.kernels import winograd

    has_cuda = torch.cuda.is_available()
    kernels = "native Winograd" if winograd.is_available() else "PyTorch"
    found = {
        "torch": torch.__version__,
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "CUDA": torch.cuda.get_device_name() if has_cuda else "none",
        "training on CPU": f"{kernels} convolutions",
    }
    for size in get_args(ModelSize):
        found[f"teacher {size}"] = _found(partial(_teacher, size))
    return found


def _teacher(size: ModelSize) -> str:
    from efficientad.model_files.teachers import open_teacher

    return f"shipped, sha256 {open_teacher(size).file_hash}"


def _found(fact: Callable[[], str]) -> str:
    """Return a fact, or the sentence that says why there is none."""
    try:
        return fact()
    except EfficientADError as error:
        return str(error)
