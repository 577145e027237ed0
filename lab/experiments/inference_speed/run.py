"""Time from RGB pixels to both raw maps: plain networks and this project's engines.

    python lab/experiments/inference_speed/run.py

All are called in turn in one process, so that a slower moment of the machine meets all
of them; the result is the median time of an image. Weights and pixels are random: they
do not change the time. `efficientad benchmark` measures whole predictions.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch

from efficientad.engines.engine import Engine, Pixels
from efficientad.images.rgb import INPUT_SIZE
from efficientad.inspection.opening import detector_engine
from efficientad.method.sizes import ModelSize
from efficientad.training.quick import QUICK
from efficientad_lab.benchmark.baseline import BaselineEngine
from efficientad_lab.benchmark.candidates import BASELINE, available_engines
from efficientad_lab.benchmark.clock import interleaved
from efficientad_lab.benchmark.random_detector import random_detector
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import write_run

RESULTS = Path(__file__).with_name("results")
FEW = QUICK.local_channels, QUICK.global_channels
"""Channels of the local and the global map that preset `quick` keeps."""


class Row(NamedTuple):
    """Measurement of one engine."""

    name: str
    milliseconds: float
    """Median time of an image."""
    speedup: float
    """Ratio to the plain networks."""
    difference: float
    """Largest difference of a map value from the plain networks', relative to it."""


def engines(size: ModelSize, n_threads: int) -> dict[str, tuple[Engine, Engine]]:
    """Return every engine, the baseline first, each with the plain networks."""
    detector = random_detector(size)
    plain = BaselineEngine(detector)
    found: dict[str, tuple[Engine, Engine]] = {BASELINE: (plain, plain)}
    for name in available_engines(detector):
        found[name] = detector_engine(detector, name, n_threads=n_threads), plain
    if "native" in found:
        for n_shared in (0, QUICK.n_shared_layers):
            narrow = random_detector(size, *FEW, n_shared=n_shared)
            engine = detector_engine(narrow, "native", n_threads=n_threads)
            shared = f", {n_shared} shared layers" if n_shared else ""
            variant = f"native, {FEW[0]} and {FEW[1]} channels{shared}"
            found[variant] = engine, BaselineEngine(narrow)
    return found


def largest_difference(engine: Engine, plain: Engine, pixels: Pixels) -> float:
    """Return the largest relative difference of a map value."""
    maps, exact = engine.run(pixels).grids, plain.run(pixels).grids
    return max(float((np.abs(maps[k] - exact[k]) / exact[k]).max()) for k in exact)


def measure(size: ModelSize, threads: int, batch: int, repeats: int) -> list[Row]:
    """Return a row for each engine."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    found = engines(size, threads)
    calls = {name: partial(engine.run, pixels) for name, (engine, _) in found.items()}
    times = {k: t.median for k, t in interleaved(calls, repeats).items()}
    return [
        Row(
            name,
            milliseconds / batch,
            times[BASELINE] / milliseconds,
            largest_difference(*found[name], pixels),
        )
        for name, milliseconds in times.items()
    ]


def run_of(size: ModelSize, setting: str, row: Row) -> dict[str, Any]:
    """Return the recorded run of a row."""
    metrics = {
        "milliseconds": row.milliseconds,
        "speedup": row.speedup,
        "largest_relative_difference": row.difference,
    }
    return {
        "experiment": "inference_speed",
        "category": size,
        "variant": f"{setting}, {row.name}",
        "seed": 0,
        "settings": {"size": size, "niceness": os.nice(0)},
        "metrics": {name: float(f"{value:.4g}") for name, value in metrics.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and record every engine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=get_args(ModelSize), default="small")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for n_threads in options.threads:
        setting = f"batch {options.batch}, {n_threads} threads"
        for row in measure(options.size, n_threads, options.batch, options.repeats):
            run = run_of(options.size, setting, row)
            print(run["category"], run["variant"], run["metrics"], flush=True)
            write_run(run | environment(), options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
