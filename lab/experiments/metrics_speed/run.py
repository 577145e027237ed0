"""Time and memory of the pixel metrics on hundreds of large maps.

    python lab/experiments/metrics_speed/run.py

Synthetic maps and masks are written to temporary files. A process of its own then reads
them image by image in two passes for pixel AU-ROC and AU-PRO. The default, 500 maps of
1024 x 1024, needs 2.5 GiB of disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from efficientad.evaluation.pixel_results import (
    AU_PRO_FPR_LIMIT,
    numbered_regions,
    region_pixels,
)
from efficientad.evaluation.region_overlap import RegionOverlap, count_normal
from efficientad.method.placement import place_map
from efficientad_lab.benchmark.memory import own_peak_mib
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import Run, write_run

RESULTS = Path(__file__).with_name("results")
_NORMAL_EVERY: Final = 3  # as in a test set of MVTec AD, about a third is normal
_SMOOTH_CELLS: Final = 56

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


def synthetic_image(
    rng: np.random.Generator, size: int, *, is_defect: bool
) -> tuple[Map, Mask]:
    """Return a map of smooth and fine noise, raised in the blobs of its mask."""
    smooth = rng.normal(0, 0.05, (_SMOOTH_CELLS, _SMOOTH_CELLS)).astype(np.float32)
    fine = rng.standard_normal((size, size), np.float32)
    anomaly_map = place_map(smooth, size, size) + np.float32(0.02) * fine
    mask = np.zeros((size, size), bool)
    for _ in range(rng.integers(1, 6) if is_defect else 0):
        radius = rng.uniform(0.01, 0.12) * size
        row, column = rng.uniform(0, size, 2)
        down, right = np.ogrid[:size, :size]
        distance = np.hypot(down - row, right - column).astype(np.float32) / radius
        mask |= distance < 1
        anomaly_map += np.float32(rng.uniform(0, 0.4)) * np.exp(-(distance**2))
    return anomaly_map, mask


def write_images(folder: Path, n_images: int, size: int, seed: int) -> None:
    """Write all maps to one file and all masks to another."""
    rng = np.random.default_rng(seed)
    with (folder / "maps").open("wb") as maps, (folder / "masks").open("wb") as masks:
        for index in range(n_images):
            is_defect = index % _NORMAL_EVERY != 0
            anomaly_map, mask = synthetic_image(rng, size, is_defect=is_defect)
            anomaly_map.tofile(maps)
            mask.tofile(masks)


def measure(folder: Path, n_images: int, size: int) -> dict[str, Any]:
    """Time both passes over the images; the memory is that of this whole process."""
    n_pixels = size * size

    def image(index: int) -> tuple[Map, Mask]:
        # Mapped anew for each image, so that pages which were read do not stay.
        shape, maps, masks = (size, size), folder / "maps", folder / "masks"
        anomaly_map = np.memmap(maps, np.float32, "r", 4 * index * n_pixels, shape)
        return anomaly_map, np.memmap(masks, np.bool_, "r", index * n_pixels, shape)

    start, processor_start = time.perf_counter(), time.process_time()
    overlap = RegionOverlap(
        region_pixels(anomaly_map, [numbered_regions(mask)])
        for anomaly_map, mask in map(image, range(n_images))
    )
    first = time.perf_counter()
    pairs = map(image, range(n_images))
    count_normal([overlap], (anomaly_map[~mask] for anomaly_map, mask in pairs))
    counted = time.perf_counter()
    au_pro = overlap.area("AU-PRO", AU_PRO_FPR_LIMIT)
    au_pro_done = time.perf_counter()
    pixel_au_roc = overlap.au_roc("pixel AU-ROC")
    end = time.perf_counter()
    return {
        "metrics": {"au_pro": au_pro, "pixel_au_roc": pixel_au_roc},
        "seconds": {
            "defect_pixels": round(first - start, 2),
            "normal_pixels": round(counted - first, 2),
            "au_pro": round(au_pro_done - counted, 2),
            "pixel_au_roc": round(end - au_pro_done, 2),
            "total": round(end - start, 2),
            "total_of_processor": round(time.process_time() - processor_start, 2),
        },
        "peak_memory_mib": {"total": round(own_peak_mib())},
    }


def measured_alone(options: argparse.Namespace) -> Run:
    """Write the images, and measure in a fresh process."""
    n_images, size = options.n_images, options.size
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        write_images(Path(name), n_images, size, options.seed)
        command = [sys.executable, __file__, "--measure", name]
        command += ["--n-images", str(n_images), "--size", str(size)]
        done = subprocess.run(  # noqa: S603 - this script itself
            command, check=True, capture_output=True, text=True
        )
    return {
        "experiment": "metrics_speed",
        "category": "synthetic",
        "variant": f"{n_images} maps of {size}x{size}",
        "seed": options.seed,
        "settings": {"n_images": n_images, "size": size, "niceness": os.nice(0)},
        **json.loads(done.stdout),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n-images", type=int, default=500, help="number of maps")
    parser.add_argument("--size", type=int, default=1024, help="height and width")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.n_images, options.size)))
        return 0
    run = measured_alone(options)
    print(json.dumps(run, indent=1))
    write_run(run | environment(), options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
