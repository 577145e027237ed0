"""What commands cost a user: start of the command line, peak memories.

    python benchmarks/command_costs.py --data ../shared/data --output benchmarks/results

Every command runs in a process of its own, as a user's would; the peak is that of the
whole process as Linux tells it. A training takes so few steps that its peak has
been reached: it comes from the images, the teacher's kept descriptors and one step.
`--only train --whole` is a training to the end.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from inference_speed import random_detector
from PIL import Image
from records import RESULTS, write_run

from efficientad.errors import ResultError
from efficientad.method.decision import Calibration, MapQuantiles
from efficientad.model_files.detector_file import save
from efficientad_lab.studies.records import Run

EXPERIMENT: Final = "command_costs"
_COMMANDS: Final = ("help", "predict", "train")
_N_STARTS: Final = 9
_LARGE: Final = (8000, 6000)
_N_LARGE, _N_SMALL, _SMALL = 3, 200, (512, 512)
_STEPS: Final = 8


_MEASURED: Final = """
import sys
from efficientad.cli import main
code = main()
from efficientad_lab.benchmark.memory import own_peak_mib
print("peak", own_peak_mib(), file=sys.stderr)
sys.exit(code)
"""


class Cost(NamedTuple):
    """What one run of a command took."""

    seconds: float
    peak_memory_mib: float


def cost_of(arguments: Sequence[str]) -> Cost:
    """Run `efficientad` with some arguments.

    Raises:
        ResultError: If the command fails.
    """
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - this package's own command line
        [sys.executable, "-c", _MEASURED, *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    found = re.search(r"^peak (\S+)$", done.stderr, re.MULTILINE)
    if done.returncode or found is None:
        raise ResultError(f"efficientad {' '.join(arguments)} failed: {done.stderr}")
    return Cost(seconds, float(found[1]))


def write_images(folder: Path, n: int, size: tuple[int, int]) -> Path:
    """Write JPEG photographs, smooth with some noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:03}.jpg")
    return folder


def write_detector(path: Path) -> Path:
    """Write a detector of random weights that can judge."""
    detector = random_detector("small")
    quantiles = MapQuantiles(0.5, 1.0)
    detector.calibration = Calibration(quantiles, quantiles, (0.1,))
    save(detector, path)
    return path


def run_of(category: str, variant: str, cost: Cost, repeats: int = 1) -> Run:
    """A run in the form of `benchmarks/README.md`."""
    return {
        "experiment": EXPERIMENT,
        "category": category,
        "variant": variant,
        "seed": 0,
        "settings": {"repeats": repeats},
        "metrics": {
            "command_seconds": cost.seconds,
            "peak_memory_mib": cost.peak_memory_mib,
        },
    }


def start_run(repeats: int) -> Run:
    """The command line's help, median of some starts; the first one does not count."""
    costs = [cost_of(["--help"]) for _ in range(repeats + 1)][1:]
    median = statistics.median(cost.seconds for cost in costs)
    peak = max(cost.peak_memory_mib for cost in costs)
    return run_of("--help", "median of starts", Cost(median, peak), repeats)


def predict_runs(folder: Path) -> list[Run]:
    """Heatmaps and maps of few large and of many small images."""
    model = write_detector(folder / "part.ead")
    runs = []
    for name, n, size in (("large", _N_LARGE, _LARGE), ("small", _N_SMALL, _SMALL)):
        images = write_images(folder / name, n, size)
        output = folder / f"of_{name}"
        cost = cost_of(
            ["predict", str(model), str(images), "--output", str(output), "--maps"]
        )
        width, height = size
        runs.append(run_of("predict", f"{n} images of {width} x {height}", cost))
    return runs


def train_run(folder: Path, data: Path, size: str, *, is_whole: bool) -> Run:
    """The start of a training on the 320 images of the category screw, or all of it."""
    images = data / "mvtec_ad" / "screw"
    cost = cost_of(
        [
            *("train", str(images), "--output", str(folder / "trained.ead")),
            *("--size", size, "--device", "cpu"),
            *(() if is_whole else ("--steps", str(_STEPS))),
        ]
    )
    n = len(list((images / "train" / "good").iterdir()))
    length = "to the end" if is_whole else f"{_STEPS} steps"
    return run_of("train", f"{size}, quick, {n} images, {length}", cost)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="with mvtec_ad/screw, for training")
    parser.add_argument("--sizes", nargs="+", default=["small"])
    parser.add_argument("--whole", action="store_true", help="train to the end")
    parser.add_argument("--output", type=Path, help=f"for example {RESULTS}")
    parser.add_argument("--only", nargs="+", choices=_COMMANDS, default=_COMMANDS)
    asked = parser.parse_args(arguments)
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "help" in asked.only:
            runs.append(start_run(_N_STARTS))
        if "predict" in asked.only:
            runs += predict_runs(folder)
        if "train" in asked.only and asked.data is not None:
            runs += [
                train_run(folder, asked.data, size, is_whole=asked.whole)
                for size in asked.sizes
            ]
    for run in runs:
        print(run["category"], run["variant"], run["metrics"], flush=True)
        if asked.output is not None:
            write_run(run, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
