"""Cost as work grows: image side, batch, threads, number of training images.

    python benchmarks/scaling.py --output benchmarks/results --plot docs/scaling.svg

Each point is measured in a process of its own, whose peak memory it is; a point whose
record exists is skipped. Predictions are those of the native layers, where they can be
built, on images of noise; a training takes so few steps that what grows with the number
of its images is seen: reading, the teacher's descriptors, memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from inference_speed import random_detector
from PIL import Image
from records import RESULTS, file_name, write_run

from efficientad.kernels.native import keep_freed_memory
from efficientad.method.decision import Calibration, MapQuantiles
from efficientad.method.detector import Detector
from efficientad.training.config import TrainConfig
from efficientad.training.run import train
from efficientad_lab.benchmark.clock import consecutive
from efficientad_lab.benchmark.memory import own_peak_mib
from efficientad_lab.studies.records import Run, read_runs

EXPERIMENT: Final = "scaling"
GROWING: Final[dict[str, tuple[int, ...]]] = {
    "image side": (256, 512, 1024, 2048),
    "batch": (1, 2, 4, 8, 16),
    "threads": (1, 2),
    "training images": (100, 300, 1000, 3000, 10_000),
}
_REPEATS, _N_WARM_UP, _N_HELD_OUT, _N_STEPS, _SIDE = 9, 2, 12, 4, 128


def calibrated() -> Detector:
    """A detector with random weights that gives predictions."""
    detector = random_detector("small")
    quantiles = MapQuantiles(low=0.5, high=1.0)
    detector.calibration = Calibration(quantiles, quantiles, (0.1,))
    return detector


def noise(n: int, side: int) -> list[Any]:
    """Images of noise."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(n)]


def predicted(n: int, side: int) -> float:
    """Median milliseconds an image, its map at its own size included."""
    detector, images = calibrated(), noise(n, side)

    def call() -> None:
        for prediction in detector.predict_batch(images):
            _ = prediction.anomaly_map

    return consecutive(call, _REPEATS, n_warm_up=_N_WARM_UP).median / n


def of_threads(n: int) -> float:
    """Median milliseconds of one image of 256 x 256."""
    torch.set_num_threads(n)
    return predicted(1, 256)


def trained(n: int) -> float:
    """Milliseconds of a short training, per training image."""
    with tempfile.TemporaryDirectory() as folder:
        parts, held_out = Path(folder) / "parts", Path(folder) / "held_out"
        rng = np.random.default_rng(0)
        for target, count in ((parts, n), (held_out, _N_HELD_OUT)):
            target.mkdir()
            for index in range(count):
                pixels = rng.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
                Image.fromarray(pixels).save(target / f"{index:05}.jpg")
        start = time.perf_counter()
        train(parts, TrainConfig(preset="quick", steps=_N_STEPS, validation=held_out))
        return 1000 * (time.perf_counter() - start) / n


_MEASURES: Final[dict[str, Callable[[int], float]]] = {
    "image side": lambda side: predicted(1, side),
    "batch": lambda n: predicted(n, 256),
    "threads": of_threads,
    "training images": trained,
}


def alone(growing: str, value: int) -> dict[str, float]:
    """What a point costs, measured in this process."""
    keep_freed_memory()
    milliseconds = _MEASURES[growing](value)
    return {"milliseconds": milliseconds, "peak_memory_mib": own_peak_mib()}


def measured(growing: str, value: int) -> dict[str, float]:
    """The same in a new process."""
    command = [sys.executable, __file__, "--alone", growing, str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603 - this script itself
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_of(growing: str, value: int, metrics: dict[str, float]) -> Run:
    """A run in the form of `benchmarks/README.md`."""
    return {
        "experiment": EXPERIMENT,
        "category": growing,
        "variant": f"{value:05}",
        "seed": 0,
        "settings": {"value": value},
        "metrics": metrics,
    }


def plot(runs: Iterable[Run], path: Path) -> None:
    """Time and memory against what grows, each on two logarithmic axes."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots(2, len(GROWING), squeeze=False)
    points = [run for run in runs if run["experiment"] == EXPERIMENT]
    for column, growing in enumerate(GROWING):
        own = [run for run in points if run["category"] == growing]
        own.sort(key=lambda run: run["settings"]["value"])
        values = [run["settings"]["value"] for run in own]
        rows = (("milliseconds", "ms an image"), ("peak_memory_mib", "peak MiB"))
        for row, (metric, label) in enumerate(rows):
            place = axes[row][column]
            heights = [run["metrics"][metric] for run in own]
            place.plot(values, heights, "o-")
            place.set_xscale("log")
            place.set_xticks(values, [f"{value:,}" for value in values], rotation=45)
            place.minorticks_off()
            place.set_ylim(0, 1.1 * max(heights, default=1))
            place.set_xlabel(growing)
            place.set_ylabel(label)
            place.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not recorded yet, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--only", choices=list(GROWING), nargs="+", default=[*GROWING])
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.alone:
        growing, value = asked.alone
        print(json.dumps(alone(growing, int(value))))
        return 0
    for growing in asked.only:
        for value in GROWING[growing]:
            run = run_of(growing, value, {})
            if (asked.output / file_name(run)).is_file():
                continue
            run["metrics"] = measured(growing, value)
            print(growing, value, run["metrics"], flush=True)
            write_run(run, asked.output)
    if asked.plot is not None:
        plot(read_runs(asked.output), asked.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
