"""Machine and commit for provenance, and the facts that `efficientad doctor` prints."""

import os
import platform
import subprocess
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final, get_args

import efficientad
from efficientad.cores import default_threads
from efficientad.errors import EfficientADError, extra_is_missing
from efficientad.kernels import layers, native
from efficientad.method.sizes import ModelSize

_CHECKOUT: Final = Path(efficientad.__file__).resolve().parents[2]
_INSTRUCTIONS: Final = {
    "amx_tile": "AMX",
    "avx512_bf16": "BF16",
    "avx512_vnni": "VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
"""Names of the instruction sets that matter, by the processor's flags."""


def machine() -> str:
    """Return the processor, the cores PyTorch uses, and the accelerator."""
    try:
        import torch
    except ModuleNotFoundError:
        return f"{processor()}, {os.cpu_count()} cores"
    name = f"{processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    if torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return name


def processor() -> str:
    """Return the processor's name and instruction sets, where the system tells them."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    told = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = told.get("flags", "").split()
    able = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    name = told.get("model name", platform.machine())
    return f"{name} ({', '.join(able)})" if able else name


def commit() -> str:
    """Return the commit; with `-dirty` if files differ, `none` if installed."""
    # An installed package may lie within the checkout of something else.
    if not (_CHECKOUT / ".git").exists():
        return "none"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(  # noqa: S603 - the git on the path
            command, cwd=_CHECKOUT, check=False, capture_output=True, text=True
        )
    except FileNotFoundError:
        return "none"
    return described.stdout.strip() if described.returncode == 0 else "none"


def findings() -> dict[str, str]:
    """Return versions, devices, kernels and shipped teachers by name."""
    found = {
        "efficientad": efficientad.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "CPU threads": str(default_threads()),
        "prediction on CPU": layers.description(),
        "kernel cache": _found(lambda: str(native.cache_folder())),
        "ONNX Runtime": _version("onnxruntime"),
        "OpenVINO": _version("openvino"),
    }
    try:
        return found | _of_training()
    except ModuleNotFoundError as error:
        return found | {"training": str(extra_is_missing("it", "train", error))}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


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
