"""Time and memory of a prediction in tiles, by the side of the image.

    python lab/experiments/tiles_cost/run.py

Each side has a process of its own, with random weights of a detector as preset `quick`
makes it. The image is an array, so that no decoding is measured.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from efficientad.images.preparation import Preparation
from efficientad_lab.benchmark.random_detector import calibrated, random_detector
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import write_run

RESULTS = Path(__file__).with_name("results")
SIDES = (256, 1024, 2048, 4096)
N_TIMES = 7


def measure(side: int) -> dict[str, float]:
    """Return the median time of a prediction, and the peak memory of the process."""
    detector = random_detector("small", 128, 64, n_shared=2)
    predictor = replace(calibrated(detector), preparation=Preparation((side, side)))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    predictor.predict(image)
    seconds = []
    for _ in range(N_TIMES):
        start = time.perf_counter()
        predictor.predict(image)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    milliseconds = round(1000 * statistics.median(seconds), 1)
    return {"milliseconds": milliseconds, "peak_memory_mib": round(peak)}


def main() -> None:
    """Measure and record all sides."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, help="measure one and print it")
    side = parser.parse_args().side
    if side is not None:
        print(json.dumps(measure(side)))
        return
    for number in SIDES:
        command = (sys.executable, __file__, "--side", str(number))
        found = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this script
        run = {
            "experiment": "tiles_cost",
            "category": "random weights",
            "variant": f"{number} x {number} pixels",
            "seed": 0,
            "settings": {"times": N_TIMES},
            "metrics": json.loads(found.stdout),
        }
        print(run["variant"], run["metrics"])
        write_run(run | environment(), RESULTS)


if __name__ == "__main__":
    main()
