"""Costs of whole commands: start of the command line and peak memories.

    python lab/experiments/command_costs/run.py --data ../shared/data

Every command runs in a process of its own, as a user's would; the peak is that of the
whole process. A training ends after a few steps, when its memory no longer grows;
`--only train --whole` trains to the end.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from efficientad.errors import ResultError
from efficientad.inspection.opening import save
from efficientad_lab.benchmark.random_detector import calibrated, random_detector
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import Run, write_run

RESULTS = Path(__file__).with_name("results")
_COMMANDS: Final = ("help", "predict", "train")
_N_STARTS: Final = 9
_IMAGES: Final = ((3, (8000, 6000)), (200, (512, 512)))
_STEPS: Final = 4

_MEASURED: Final = """
import sys
from efficientad.cli.main import main
code = main()
from efficientad_lab.benchmark.memory import own_peak_mib
print("peak", own_peak_mib(), file=sys.stderr)
sys.exit(code)
"""


class Cost(NamedTuple):
    """Cost of one run of a command."""

    seconds: float
    peak_memory_mib: float


def cost_of(arguments: Sequence[str]) -> Cost:
    """Run `efficientad` and return its cost.

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


def write_images(folder: Path, n_images: int, size: tuple[int, int]) -> None:
    """Write JPEG photographs, smooth with some noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(n_images):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:03}.jpg")


def run_of(category: str, variant: str, cost: Cost) -> Run:
    """Return the recorded run of a command."""
    return {
        "experiment": "command_costs",
        "category": category,
        "variant": variant,
        "seed": 0,
        "settings": {"repeats": _N_STARTS if category == "--help" else 1},
        "metrics": {
            "command_seconds": cost.seconds,
            "peak_memory_mib": cost.peak_memory_mib,
        },
    }


def measured(options: argparse.Namespace, folder: Path) -> Iterator[Run]:
    """Run the commands asked for, one after the other."""
    if "help" in options.only:
        costs = [cost_of(["--help"]) for _ in range(_N_STARTS + 1)][1:]
        median = statistics.median(cost.seconds for cost in costs)
        peak = max(cost.peak_memory_mib for cost in costs)
        yield run_of("--help", "median of starts", Cost(median, peak))
    if "predict" in options.only:
        model = folder / "part.ead"
        save(calibrated(random_detector("small")), model)
        for n_images, (width, height) in _IMAGES:
            images = folder / f"images_{width}"
            write_images(images, n_images, (width, height))
            output = ("--output", str(folder / f"predictions_{width}"), "--maps")
            cost = cost_of(["predict", str(model), str(images), *output])
            yield run_of("predict", f"{n_images} images of {width} x {height}", cost)
    if "train" in options.only and options.data is not None:
        images = options.data / "mvtec_ad" / "screw"
        n_images = len(list((images / "train" / "good").iterdir()))
        steps = () if options.whole else ("--steps", str(_STEPS))
        length = "to the end" if options.whole else f"{_STEPS} steps"
        for size in options.sizes:
            trained = str(folder / f"{size}.ead")
            choice = ("--size", size, "--device", "cpu", *steps)
            cost = cost_of(["train", str(images), "--output", trained, *choice])
            variant = f"{size}, quick, {n_images} images, {length}"
            yield run_of("train", variant, cost)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and record the commands."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="with mvtec_ad/screw, for training")
    parser.add_argument("--sizes", nargs="+", default=["small"])
    parser.add_argument("--whole", action="store_true", help="train to the end")
    parser.add_argument("--only", nargs="+", choices=_COMMANDS, default=_COMMANDS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        for run in measured(options, Path(name)):
            print(run["category"], run["variant"], run["metrics"], flush=True)
            write_run(run | environment(), options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
