"""Where the time of an image goes: the plain baseline and the native layers, by stage.

    python benchmarks/inference_profile.py --output benchmarks/results
    python benchmarks/inference_profile.py --size medium --output benchmarks/results

A stage is a convolution of teacher and student with what follows it, or the
autoencoder; the last one has the differences and squares too. Batch 1, medians of whole
passes made in turn.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import get_args
from unittest import mock

import torch
from baseline import Baseline, baseline, raw_maps
from inference_speed import random_detector, record, run
from torch import Tensor, nn

from efficientad.engines import native as native_maps
from efficientad.kernels import layers
from efficientad.method.detector import Detector
from efficientad.method.networks import LAYERS, ModelSize
from efficientad_lab.benchmark.clock import consecutive
from efficientad_lab.benchmark.layer_costs import layer_timings

AUTOENCODER, WHOLE = "autoencoder", "whole"

Stages = dict[str, float]
"""Milliseconds by stage, in the order of the networks."""


def stage_names(size: ModelSize) -> list[str]:
    """Name the convolutions of teacher and student."""
    *hidden, _ = LAYERS[size]
    names = [
        f"convolution {i + 1}, ReLU{', pooling' if after == 'pool' else ''}"
        for i, (_, _, _, after) in enumerate(hidden)
    ]
    return [*names, f"convolution {len(hidden) + 1}, differences, squares"]


def of_baseline(size: ModelSize, networks: Baseline, pixels: Tensor) -> Stages:
    """Time each stage of the plain networks once; what is left is the last stage's."""
    names = stage_names(size)
    found = dict.fromkeys([*names, AUTOENCODER], 0.0)
    times = iter(layer_timings(networks, 1))
    for network in (networks.teacher, networks.student):
        stage = -1
        for layer in network:
            stage += isinstance(layer, nn.Conv2d)
            found[names[stage]] += next(times).median
    found[AUTOENCODER] = sum(timing.median for timing in times)
    whole = consecutive(lambda: raw_maps(networks, pixels), 1).median
    found[names[-1]] += max(0.0, whole - sum(found.values()))
    return found | {WHOLE: whole}


def of_native(size: ModelSize, detector: Detector, pixels: Tensor) -> Stages:
    """Time each stage of the native layers once."""
    names = stage_names(size)
    found = dict.fromkeys([*names, AUTOENCODER], 0.0)
    n_pairs = 0

    def timed_run(calls: Sequence[layers.Call]) -> None:
        nonlocal n_pairs
        start = time.perf_counter()
        layers.run(calls)
        milliseconds = 1000 * (time.perf_counter() - start)
        stage = AUTOENCODER
        if calls[0].layer.finish == "mean_square":
            stage = names[-1]
        elif calls[0].layer.flat:
            stage = names[0]
        elif len(calls) > 1:
            n_pairs += 1
            stage = names[n_pairs]
        found[stage] += milliseconds

    def timed_resize(grid: Tensor, output: Tensor) -> None:
        start = time.perf_counter()
        layers.resize(grid, output)
        found[AUTOENCODER] += 1000 * (time.perf_counter() - start)

    with (
        mock.patch.object(native_maps, "run", timed_run),
        mock.patch.object(native_maps, "resize", timed_resize),
    ):
        whole = consecutive(lambda: detector.judged_maps(pixels), 1).median
    found[names[-1]] += max(0.0, whole - sum(found.values()))
    return found | {WHOLE: whole}


@torch.inference_mode()
def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=get_args(ModelSize), default="small")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, help="folder of the JSON files")
    given = parser.parse_args()
    networks = baseline(random_detector(given.size))
    detector = random_detector(given.size)
    pixels = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
    detector.judged_maps(pixels)
    before: list[Stages] = []
    after: list[Stages] = []
    for _ in range(given.repeats):
        before.append(of_baseline(given.size, networks, pixels))
        after.append(of_native(given.size, detector, pixels))
    for stage in before[0]:
        plain, native = (median(s[stage] for s in found) for found in (before, after))
        metrics = {"before": plain, "after": native, "speedup": plain / native}
        record(run("inference_profile", given.size, stage, metrics), given.output)


if __name__ == "__main__":
    main()
