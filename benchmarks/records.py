"""What every recorded run says about where it was made, and how it is written."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from metrics_speed import commit, processor, versions

from efficientad.storage import write_whole

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> str:
    """Processor, cores this process uses, and the accelerator where there is one."""
    name = f"{processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    if torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return name


def file_name(run: dict[str, Any]) -> str:
    """As benchmarks/README.md says."""
    parts = (run["experiment"], run["category"], run["variant"], f"seed{run['seed']}")
    name = "_".join(parts).lower()
    kept = (c if c.isalnum() or c in "._-" else "-" for c in name)
    return f"{''.join(kept)}.json"


def write_run(run: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a run with machine, versions and commit; the file is whole or not there."""
    path = folder / file_name(run)
    full = run | {"machine": machine(), "versions": versions(), "commit": commit()}
    write_whole(path, f"{json.dumps(full, indent=1, allow_nan=False)}\n".encode())
    return path
