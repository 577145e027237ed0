"""Peak memory of a candidate, measured in a process that does nothing else.

    python -m efficientad_lab.benchmark.peak_memory '{"name": ..., "path": ..., ...}' 16

prints it as JSON: after opening, after one image, after a batch. On a GPU it also
prints the memory that PyTorch reserved there, as the paper does.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

import efficientad
from efficientad.errors import ModelFileError
from efficientad.images.rgb import INPUT_SIZE
from efficientad_lab.benchmark.candidates import Candidate
from efficientad_lab.benchmark.memory import children_peak_mib, own_peak_mib


def peak_memory_mib(candidate: Candidate, batch_size: int) -> dict[str, float]:
    """Measure the peak memory of one candidate, MiB, in a new process.

    Args:
        candidate: Candidate to open.
        batch_size: Images of one call.

    Returns:
        Peaks of the whole process by name: `opened`, `one_image` and `batch`, and
        `gpu_reserved` if PyTorch has used a GPU.

    Raises:
        ModelFileError: If the process fails.
    """
    given = json.dumps(asdict(candidate), default=str)  # paths
    # The process runs the sources of this one, whatever is installed.
    sources = [Path(efficientad.__file__).parents[1], Path(__file__).parents[2]]
    paths = [str(source.resolve()) for source in sources]
    if inherited := os.environ.get("PYTHONPATH"):
        paths.append(inherited)
    finished = subprocess.run(  # noqa: S603 - this module itself
        [sys.executable, "-m", __name__, given, str(batch_size)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    if finished.returncode != 0:
        last = (finished.stderr.strip() or "no message").splitlines()[-1]
        raise ModelFileError(
            f"the peak memory of {candidate.name} needed a process of its own, which "
            f"ended with code {finished.returncode} ({last}); leave it out with "
            "--no-memory"
        )
    measured: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return measured


def measured_here(candidate: Candidate, batch_size: int) -> dict[str, float]:
    """Measure the peaks of `peak_memory_mib` in this process."""
    # anomalib works in a process of its own.
    peak_mib = own_peak_mib if candidate.anomalib is None else children_peak_mib
    predictor = candidate.open()
    found = {"opened": peak_mib()}
    image = np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    predictor.predict(image)
    found["one_image"] = peak_mib()
    predictor.predict_batch([image] * batch_size)
    found["batch"] = peak_mib()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        found["gpu_reserved"] = torch.cuda.max_memory_reserved() / 2**20
    return found


if __name__ == "__main__":
    _given, _n = sys.argv[1:]
    _fields = json.loads(_given)
    _paths = {k: Path(_fields[k]) for k in ("path", "anomalib") if _fields[k]}
    _candidate = Candidate(**_fields | _paths)
    print(json.dumps(measured_here(_candidate, int(_n))))  # noqa: T201 - the result
