"""Throughput of a cluster by simulation, from measured times of one image.

    python lab/experiments/scale/simulate.py

Workers read a shard of images, predict it and write a part. They share the bandwidth of
the store. A worker that fails loses its part, which another one does again, and is back
after a minute. Times of reading, decoding and predicting are those of the recorded run
of `run.py inference`.
"""

import argparse
import heapq
import json
import random
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

RECORD: Final = (
    Path(__file__).parent / "results" / "scale_synthetic_inference_seed0.json"
)
_SECONDS_BACK: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a simulation assumes."""

    n_images: int = 1_000_000
    n_workers: int = 64
    part_size: int = 1000
    failures_per_hour: float = 0.0
    """Failures of each worker."""
    seconds_per_image: float
    """Time of one worker to decode and predict an image, when it has been read."""
    bytes_per_image: float
    store_bytes_per_s: float = 1.25e9
    """Bandwidth of the store for all workers: 10 Gbit/s."""
    seconds_per_part: float = 0.05
    """Time of driver and store for each part."""


def images_per_second(cluster: Cluster, seed: int = 0) -> float:
    """Simulate until all parts are written, and return the throughput."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    waiting = deque([cluster.part_size] * (cluster.n_images // cluster.part_size))
    free = [(0.0, worker) for worker in range(cluster.n_workers)]
    store_free, end = 0.0, 0.0
    lost: list[tuple[float, int]] = []
    while waiting or lost:
        now, worker = heapq.heappop(free)
        while lost and (not waiting or lost[0][0] <= now):
            when, size = heapq.heappop(lost)
            waiting.append(size)
            now = max(now, when)
        size = waiting.popleft()
        # The store gives its bandwidth to one shard after the other.
        reading = size * cluster.bytes_per_image / cluster.store_bytes_per_s
        store_free = max(store_free, now) + reading
        # Reading goes on beside the work: the slower of the two counts.
        work = size * cluster.seconds_per_image
        done = max(store_free, now + work) + cluster.seconds_per_part
        rate = cluster.failures_per_hour / 3600
        failed = now + rng.expovariate(rate) if rate else done
        if failed < done:
            heapq.heappush(lost, (failed, size))
            heapq.heappush(free, (failed + _SECONDS_BACK, worker))
        else:
            heapq.heappush(free, (done, worker))
            end = max(end, done)
    return cluster.n_images / end


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the throughput against workers, part size and failures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, default=RECORD, help="of run.py")
    metrics = json.loads(parser.parse_args(arguments).record.read_text())["metrics"]
    milliseconds = sum(
        metrics[f"processor_ms_{part}"] for part in ("read", "decode", "predict")
    )
    base = Cluster(
        seconds_per_image=milliseconds / 1000,
        bytes_per_image=metrics["bytes_per_image"],
    )
    print("| workers | images a part | failures an hour | images/s | of ideal |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for cluster in (
        *(replace(base, n_workers=n) for n in (1, 16, 64, 256, 1024, 4096)),
        *(replace(base, part_size=n) for n in (10, 100, 10_000)),
        *(
            replace(base, failures_per_hour=rate, part_size=n)
            for rate in (0.1, 1)
            for n in (100, 1000, 10_000)
        ),
    ):
        found = images_per_second(cluster)
        ideal = cluster.n_workers / cluster.seconds_per_image
        print(
            f"| {cluster.n_workers} | {cluster.part_size} | "
            f"{cluster.failures_per_hour:g} | {found:.0f} | {found / ideal:.0%} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
