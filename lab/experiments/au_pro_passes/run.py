"""Pixel AU-ROC and AU-PRO in one pass with counts by binade, or in two exact passes.

    python lab/experiments/au_pro_passes/run.py --defect-area 0.05 --output FILE.json

Synthetic maps, as large as those of MVTec AD, are drawn from 56 x 56 grids as an
evaluation does. A third of the images is normal, the others belong to `--types` defect
types. Both ways measure all defects together and each type against the normal images,
each in a process of its own that does nothing else.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from two_passes import TwoPasses, count_normal

from efficientad.evaluation.metrics import PixelMetrics
from efficientad.evaluation.pixel_metrics import _connected_regions
from efficientad.method.placement import place_map
from efficientad.training.environment import commit, processor, versions

GOOD = 0


def image(index: int, arguments: argparse.Namespace) -> tuple[int, Any, Any]:
    """Return an image's type, map and mask; the same index gives the same image."""
    rng = np.random.default_rng([arguments.seed, index])
    size = arguments.size
    grid = rng.normal(0, 0.05, (56, 56)).astype(np.float32)
    mask = np.zeros((size, size), bool)
    kind = GOOD if index % 3 == 0 else 1 + index % arguments.types
    if kind != GOOD:
        n_blobs = rng.integers(1, 4)
        radius = np.sqrt(arguments.defect_area / n_blobs / np.pi)
        down, right = np.ogrid[:size, :size]
        cells_down, cells_right = np.ogrid[:56, :56]
        for y, x in rng.uniform(0.1, 0.9, (n_blobs, 2)):
            mask |= np.hypot(down / size - y, right / size - x) < radius
            away = np.hypot(cells_down / 56 - y, cells_right / 56 - x) / (radius + 0.02)
            grid += np.float32(rng.uniform(0, 0.4)) * np.exp(-(away**2)).astype("f4")
    return kind, place_map(grid, size, size), mask


def images(arguments: argparse.Namespace) -> Iterator[tuple[int, Any, Any]]:
    """Draw all images, one after the other."""
    return (image(index, arguments) for index in range(arguments.images))


def one_pass(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Measure with the package's counts by binade."""
    parts = {kind: PixelMetrics() for kind in range(arguments.types + 1)}
    for kind, anomaly_map, mask in images(arguments):
        parts[kind].add(anomaly_map, mask)
    results = {}
    for kind in range(arguments.types + 1):
        chosen = parts if kind == GOOD else {GOOD, kind}
        joined = PixelMetrics.joined(parts[each] for each in chosen)
        results[str(kind)] = [joined.pixel_au_roc(), joined.au_pro()]
    return results


def two_passes(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Measure with defect scores first, then counting."""
    regions: dict[int, list[Any]] = {kind: [] for kind in range(1, arguments.types + 1)}
    for index in range(arguments.images):
        if index % 3:
            kind, anomaly_map, mask = image(index, arguments)
            regions[kind].append(_connected_regions(anomaly_map, mask))
    counters = {GOOD: TwoPasses([r for each in regions.values() for r in each])}
    counters |= {kind: TwoPasses(each) for kind, each in regions.items()}
    for kind in range(arguments.types + 1):
        chosen = counters.values() if kind == GOOD else [counters[GOOD], counters[kind]]
        numbers = [
            index
            for index in range(arguments.images)
            if kind == (GOOD if index % 3 == 0 else 1 + index % arguments.types)
        ]
        drawn = (image(index, arguments) for index in numbers)
        count_normal(
            list(chosen), (anomaly_map[~mask] for _, anomaly_map, mask in drawn)
        )
    return {
        str(kind): [counter.au_roc(), counter.area(0.3)]
        for kind, counter in counters.items()
    }


def drawing_only(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Measure nothing: what drawing the images costs."""
    for _ in images(arguments):
        pass
    return {}


WAYS = {
    "drawing_only": drawing_only,
    "one_pass": one_pass,
    "two_passes": two_passes,
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one way in this process, and report its time and peak memory."""
    start, of_processor = time.perf_counter(), time.process_time()
    results = WAYS[arguments.way](arguments)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(time.process_time() - of_processor, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "results": results,
    }


def main() -> None:
    """Measure all ways, each in a fresh process, and write a record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--types", type=int, default=5)
    parser.add_argument("--defect-area", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        print(json.dumps(measure(arguments)))
        return
    measured = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(  # noqa: S603 - this script itself
            command, check=True, capture_output=True, text=True
        )
        measured[way] = json.loads(done.stdout)
    record = {
        "experiment": "au_pro_passes",
        "settings": {
            name: getattr(arguments, name)
            for name in ("images", "size", "types", "defect_area", "seed")
        },
        "measured": measured,
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 2),
        "versions": versions(),
        "commit": commit(),
    }
    text = json.dumps(record, indent=1) + "\n"
    print(text, end="")
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
