"""Machine and commit, for the provenance of teachers and of recorded measurements."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Final

import efficientad

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
