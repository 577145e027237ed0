"""The facts that `efficientad doctor` prints."""

import platform
from collections.abc import Callable
from functools import partial
from typing import get_args

import torch

from efficientad import __version__
from efficientad.errors import EfficientADError
from efficientad.kernels import layers, native, winograd
from efficientad.method.sizes import ModelSize
from efficientad.model_files.teachers import open_teacher


def findings() -> dict[str, str]:
    """Return versions, devices, kernels and shipped teachers by name."""
    prediction = "PyTorch's layers"
    if layers.is_available():
        prediction = "native layers" + (", also bf16" if layers.has_bf16() else "")
    has_winograd = winograd.is_available()
    has_cuda = torch.cuda.is_available()
    found = {
        "efficientad": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "CPU threads": str(torch.get_num_threads()),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "CUDA": torch.cuda.get_device_name() if has_cuda else "none",
        "prediction on CPU": prediction,
        "training on CPU": f"{'native Winograd' if has_winograd else 'PyTorch'} "
        "convolutions",
        "kernel cache": _found(lambda: str(native.cache_folder())),
    }
    for size in get_args(ModelSize):
        found[f"teacher {size}"] = _found(partial(_teacher, size))
    return found


def _teacher(size: ModelSize) -> str:
    return f"shipped, sha256 {open_teacher(size).file_hash}"


def _found(fact: Callable[[], str]) -> str:
    """Return a fact, or the sentence that says why there is none."""
    try:
        return fact()
    except EfficientADError as error:
        return str(error)
