"""Where and with what something was measured."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import efficientad

_CHECKOUT: Final = Path(efficientad.__file__).resolve().parents[2]
_INSTRUCTIONS: Final = {
    "amx_tile": "AMX",
    "avx512_bf16": "BF16",
    "avx512_vnni": "VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
"""By the flags of the processor; what decides how fast a precision is."""
_PACKAGES: Final = ("numpy", "scipy", "torch", "onnxruntime", "openvino", "nncf")


def environment() -> dict[str, Any]:
    """Return machine, load, versions and commit, as they are recorded with a run."""
    return {
        "machine": machine(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "versions": versions(),
        "commit": commit(),
    }


def machine() -> str:
    """Name processor, cores PyTorch uses, and the accelerator where there is one."""
    try:
        import torch  # noqa: PLC0415 - all else serves without it
    except ModuleNotFoundError:
        return f"{processor()}, {os.cpu_count()} cores"
    name = f"{processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    if torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return name


def processor() -> str:
    """Give the processor's name and what it can, where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    told = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = told.get("flags", "").split()
    able = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    name = told.get("model name", platform.machine())
    return f"{name} ({', '.join(able)})" if able else name


def versions() -> dict[str, str]:
    """Of Python, this package and what computes."""
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


def commit() -> str:
    """Give what is checked out; `-dirty` if files differ, `none` if installed."""
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
