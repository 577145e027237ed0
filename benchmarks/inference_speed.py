"""Time from RGB pixels to both raw maps: baseline, PyTorch, OpenVINO, native layers.

All in one process, in turn, so that a slower moment of the machine meets all of them;
medians. Weights and pixels are random: they do not change the time. With `--processes
2`, so many processes of one thread each judge images at the same time. With `--steps`,
each idea alone, before and after.

    python benchmarks/inference_speed.py --output benchmarks/results
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from baseline import baseline, raw_maps
from inference_steps import steps
from openvino_networks import openvino_ways
from torch import Tensor

from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.networks import (
    DESCRIPTOR_CHANNELS,
    Autoencoder,
    ModelSize,
    PatchDescriptionNetwork,
)
from efficientad.storage import write_whole
from efficientad.training.config import QUICK
from efficientad.training.environment import commit, processor, versions
from efficientad_lab.benchmark.clock import interleaved

Maps = tuple[Tensor, Tensor]

FEW = QUICK.local_channels, QUICK.global_channels
"""Of local and global map in a detector as preset `quick` leaves it."""


class Row(NamedTuple):
    """One measured way."""

    name: str
    milliseconds: float
    speedup: float
    difference: float
    """The largest difference of a map from the baseline's, relative to the value."""


def random_detector(
    size: ModelSize,
    n_local: int = DESCRIPTOR_CHANNELS,
    n_global: int = DESCRIPTOR_CHANNELS,
) -> Detector:
    """A detector with random weights, the same for the same seed."""
    torch.manual_seed(0)
    n_hidden = DESCRIPTOR_CHANNELS
    std = torch.rand(n_local) * 0.05 + 0.02
    return Detector(
        PatchDescriptionNetwork(size, n_local, n_hidden=n_hidden),
        PatchDescriptionNetwork(size, n_local + n_global, n_hidden=2 * n_hidden),
        Autoencoder(n_global),
        ChannelStatistics(torch.randn(n_local) * 0.01, std),
    ).requires_grad_(requires_grad=False)


def ways(
    size: ModelSize, pixels: Tensor, threads: int
) -> dict[str, tuple[Callable[[Tensor], Maps], Maps]]:
    """The baseline first, then this package's ways and a ready engine's.

    Beside each what it is compared with: the plain networks' maps of its weights.
    """
    networks = baseline(random_detector(size))
    exact = raw_maps(networks, pixels)
    found: dict[str, tuple[Callable[[Tensor], Maps], Maps]] = {
        "baseline": (lambda pixels: raw_maps(networks, pixels), exact)
    }
    for runtime in random_detector(size).runtimes:
        detector = random_detector(size)
        detector.runtime = runtime
        found[runtime] = detector.judged_maps, exact
    narrow = random_detector(size, *FEW)
    maps_of_narrow = raw_maps(baseline(narrow), pixels)
    found[f"native, {' and '.join(map(str, FEW))} channels"] = (
        narrow.judged_maps,
        maps_of_narrow,
    )
    ready = openvino_ways(networks, pixels, threads)
    return found | {name: (way, exact) for name, way in ready.items()}


def medians(
    functions: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Median milliseconds of each, called in turn; the first turn does not count."""
    return {k: t.median for k, t in interleaved(functions, repeats).items()}


def measure(size: ModelSize, threads: int, batch: int, repeats: int) -> list[Row]:
    """Each way, per image."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 256, 256, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    found = ways(size, pixels, threads)
    with torch.inference_mode():
        maps = {name: way(pixels) for name, (way, _) in found.items()}
        calls = {name: partial(way, pixels) for name, (way, _) in found.items()}
        times = medians(calls, repeats)
    return [
        Row(
            name,
            milliseconds / batch,
            times["baseline"] / milliseconds,
            max(
                float(((one - other).abs() / other).max())
                for one, other in zip(maps[name], found[name][1], strict=True)
            ),
        )
        for name, milliseconds in times.items()
    ]


def measure_together(size: ModelSize, processes: int, repeats: int) -> list[Row]:
    """Each way in several processes at once, of one thread each: time an image."""
    command = [sys.executable, __file__, "--alone", "--size", size]
    command += ["--repeats", str(repeats)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this script itself
        for _ in range(processes)
    ]
    outputs = [process.communicate()[0] for process in started]
    # Whatever else a converter may print stands before.
    lines = [output.splitlines()[-1] for output in outputs]
    rows = [[Row(*row) for row in json.loads(line)] for line in lines]
    joined = []
    for same in zip(*rows, strict=True):
        milliseconds = statistics.fmean(row.milliseconds for row in same) / processes
        difference = max(row.difference for row in same)
        joined.append(Row(same[0].name, milliseconds, 0.0, difference))
    first = joined[0].milliseconds
    return [row._replace(speedup=first / row.milliseconds) for row in joined]


def run(
    experiment: str, size: ModelSize, variant: str, metrics: dict[str, float]
) -> dict[str, Any]:
    """One run in the form of `benchmarks/README.md`."""
    return {
        "experiment": experiment,
        "category": size,
        "variant": variant,
        "seed": 0,
        "settings": {"size": size, "niceness": os.nice(0)},
        "metrics": metrics,
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
        "commit": commit(),
    }


def record(found: dict[str, Any], folder: Path | None) -> None:
    """Print a run, and write it where asked."""
    values = {name: float(f"{value:.4g}") for name, value in found["metrics"].items()}
    print(found["category"], found["variant"], values, flush=True)
    if folder is None:
        return
    parts = (found["experiment"], found["category"], found["variant"], "seed0")
    name = "_".join(parts).lower().replace(", ", "_").replace(" ", "_")
    text = json.dumps(found | {"metrics": values}, indent=2) + "\n"
    write_whole(folder / f"{name}.json", text.encode())


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=get_args(ModelSize), default="small")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--steps", action="store_true", help="each idea alone")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, help="folder of the JSON files")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        print(json.dumps(measure(asked.size, 1, 1, asked.repeats)))
        return
    if asked.steps:
        torch.set_num_threads(asked.threads[0])
        for step in steps():
            times = medians({"before": step.before, "after": step.after}, asked.repeats)
            gain = {"speedup": times["before"] / times["after"]}
            found = times | gain
            record(run("inference_steps", "small", step.name, found), asked.output)
        return
    if asked.processes:
        settings = [f"{asked.processes} processes of 1 thread"]
        measured = [measure_together(asked.size, asked.processes, asked.repeats)]
    else:
        settings = [f"batch {asked.batch}, {n} threads" for n in asked.threads]
        measured = [
            measure(asked.size, n, asked.batch, asked.repeats) for n in asked.threads
        ]
    for setting, rows in zip(settings, measured, strict=True):
        for row in rows:
            metrics = {
                "milliseconds": row.milliseconds,
                "speedup": row.speedup,
                "largest_relative_difference": row.difference,
            }
            variant = f"{setting}, {row.name}"
            record(run("inference_speed", asked.size, variant, metrics), asked.output)


if __name__ == "__main__":
    main()
