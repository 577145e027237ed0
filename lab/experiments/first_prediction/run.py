"""What a line-side installation costs: its size, the first prediction, its memory.

    python lab/experiments/first_prediction/run.py LINE_PYTHON part.ead image.png

LINE_PYTHON is the Python of an environment with the wheel alone (`make wheel`). Its
starts take turns with those of the environment that runs the script, which has PyTorch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from efficientad_lab.environment import environment
from efficientad_lab.studies.records import write_run

RESULTS = Path(__file__).with_name("results")
N_STARTS = 11
_SIZE = """
import sysconfig
from pathlib import Path
files = Path(sysconfig.get_path("purelib")).rglob("*")
own = ("pip", "setuptools", "_distutils_hack", "pkg_resources")
print(sum(f.stat().st_size for f in files
          if f.is_file() and not f.relative_to(sysconfig.get_path("purelib"))
          .parts[0].startswith(own)))
"""


def start(python: Path, model: Path, image: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory, MiB, of one process that predicts."""
    with tempfile.TemporaryDirectory() as folder:
        command = (str(python), "-m", "efficientad", "predict", str(model), str(image))
        begin = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - the Python that was given
            (*command, "--output", folder, "--no-heatmaps"), stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{python} cannot predict: exit code {process.returncode}")
    return seconds, usage.ru_maxrss / 1024


def main() -> int:
    """Measure and record both environments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("line_python", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    given = parser.parse_args()
    pythons = {"wheel alone": given.line_python, "with PyTorch": Path(sys.executable)}
    starts = [
        {name: start(p, given.model, given.image) for name, p in pythons.items()}
        for _ in range(N_STARTS)
    ]
    for name, python in pythons.items():
        seconds, memory = zip(*(each[name] for each in starts), strict=True)
        size = subprocess.run(  # noqa: S603 - the Python that was given
            [python, "-c", _SIZE], check=True, capture_output=True, text=True
        ).stdout
        run = {
            "experiment": "first_prediction",
            "category": "small",
            "variant": name,
            "seed": 0,
            "settings": {"starts": N_STARTS},
            "metrics": {
                "seconds": round(statistics.median(seconds), 3),
                "peak_memory_mib": round(statistics.median(memory), 1),
                "installed_mb": round(int(size) / 1e6, 1),
            },
        }
        print(name, run["metrics"])
        write_run(run | environment(), RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
