"""Studies and predictions by several workers on Ray, beside plain processes.

    python lab/experiments/scale/run.py inference --model part.ead
    python lab/experiments/scale/run.py memory --model part.ead --n-images 10000
    python lab/experiments/scale/run.py study --scenario CATEGORY

A cluster of two CPUs is started on this machine before the clock, and stopped. Commands
are `efficientad`'s own, each process with one thread.
"""

import argparse
import csv
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
from PIL import Image
from pyarrow import parquet

from efficientad.executors.config import PartsConfig
from efficientad.images.rgb import decode_image
from efficientad.inspection.opening import load
from efficientad.shards.parts import predict_parts
from efficientad_lab.benchmark.memory import own_peak_mib, peak_mib
from efficientad_lab.environment import environment
from efficientad_lab.ray_cluster import SETTINGS, actors, loopback_cluster
from efficientad_lab.studies.records import write_run

RESULTS = Path(__file__).with_name("results")
_N_WORKERS: Final = 2
_N_TIMED: Final = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["inference", "memory", "study"])
    parser.add_argument("--model", type=Path, help="detector file")
    parser.add_argument("--scenario", type=Path, help="category folder of the study")
    parser.add_argument("--n-images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256, help="height and width")
    parser.add_argument("--part-size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2, help="times of each form")
    parser.add_argument("--steps", type=int, default=30, help="of each training")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    os.environ.update(SETTINGS, OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as name:
        if options.what == "study":
            measured = _study(options, Path(name))
        else:
            _draw(Path(name, "images"), options.n_images, options.size)
            measure = _inference if options.what == "inference" else _memory
            measured = measure(options, Path(name))
    given = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}
    run = {
        "experiment": "scale",
        "category": "synthetic",
        "variant": options.what,
        "seed": 0,
        "settings": given | {"niceness": os.nice(0)},
        **measured,
        **environment(),
    }
    print(json.dumps(run, indent=1))
    write_run(run, options.results)
    return 0


def _draw(folder: Path, n_images: int, size: int) -> None:
    """Write PNG images of coarse and fine noise, in two folders."""
    rng = np.random.default_rng(0)
    for index in range(n_images):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((size, size)), np.int16)
        noise = rng.integers(-9, 10, smooth.shape)
        place = folder / str(index % _N_WORKERS) / f"{index:06}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture = np.clip(smooth + noise, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(place, compress_level=1)


def _commands(*commands: Sequence[object]) -> float:
    """Run commands of `efficientad` at the same time, and return the seconds."""
    start = time.perf_counter()
    program = [sys.executable, "-m", "efficientad"]
    processes = [
        subprocess.Popen([*program, *map(str, command)])  # noqa: S603 - efficientad
        for command in commands
    ]
    if any(process.wait() for process in processes):
        raise RuntimeError(f"one of these failed: {commands}")
    return time.perf_counter() - start


def _inference(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time plain processes, local workers and Ray in turn, and compare the scores."""
    halves = sorted((folder / "images").iterdir())
    seconds: dict[str, list[float]] = {"plain": [], "local": [], "ray": []}
    parts: list[object] = ["--format", "parquet", "--part-size", options.part_size]
    with loopback_cluster(_N_WORKERS) as address:
        forms: dict[str, list[object]] = {
            "local": ["--executor", "local", "--n-workers", _N_WORKERS],
            "ray": ["--executor", "ray", "--address", address],
        }
        for number in range(options.rounds):
            place = folder / str(number)
            alone = ["predict", options.model, "--no-heatmaps", "--output"]
            plain = [[*alone, place / "plain" / half.name, half] for half in halves]
            seconds["plain"].append(_commands(*plain))
            for form, choice in forms.items():
                command = ["predict", options.model, *halves, *parts, *choice]
                seconds[form].append(_commands([*command, "--output", place / form]))
    scores = sorted(
        (row["path"], float(row["image_score"]))
        for path in folder.rglob("0/plain/*/predictions.csv")
        for row in csv.DictReader(path.read_text().splitlines())
    )
    for form in forms:
        table = parquet.read_table(folder / "0" / form)
        columns = (table["path"].to_pylist(), table["image_score"].to_pylist())
        if sorted(zip(*columns, strict=True)) != scores:
            raise RuntimeError(f"{form} gives other scores than the plain command")
    best = {form: min(times) for form, times in seconds.items()}
    return {
        "seconds": {k: [round(t, 1) for t in times] for k, times in seconds.items()},
        "metrics": {
            **{f"images_per_s_{k}": options.n_images / t for k, t in best.items()},
            **{f"{form}_to_plain": best["plain"] / best[form] for form in forms},
            **_service_times(options.model, folder / "images"),
        },
    }


def _service_times(model: Path, images: Path) -> dict[str, float]:
    """Return milliseconds of one thread to read, decode and predict an image."""
    predictor = load(model, device="cpu")
    paths = sorted(images.rglob("*.png"))[:_N_TIMED]
    parts: dict[str, list[float]] = {"read": [], "decode": [], "predict": []}
    for path in paths:
        times = [time.thread_time()]
        content = path.read_bytes()
        times.append(time.thread_time())
        image = decode_image(content, str(path))
        times.append(time.thread_time())
        predictor.predict(image)
        times.append(time.thread_time())
        for name, cost in zip(parts, np.diff(times), strict=True):
            parts[name].append(1000 * cost)
    found = {f"processor_ms_{k}": float(np.median(t)) for k, t in parts.items()}
    n_bytes = [path.stat().st_size for path in paths]
    return found | {"bytes_per_image": float(np.mean(n_bytes))}


def _memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Note the peak memory of driver and workers as the parts end."""
    peaks: list[dict[str, int]] = []

    def note(n_done: int, n_parts: int) -> None:
        if n_done % max(1, n_parts // 10) == 0:
            worker = max(map(peak_mib, actors(address)))
            both = {"driver": round(own_peak_mib()), "worker": round(worker)}
            peaks.append({"parts": n_done, **both})

    with loopback_cluster(_N_WORKERS) as address:
        config = PartsConfig(
            executor="ray", address=address, part_size=options.part_size
        )
        start = time.perf_counter()
        summary, _ = predict_parts(
            options.model,
            [str(folder / "images")],
            str(folder / "parts"),
            config,
            on_part=note,
        )
        seconds = time.perf_counter() - start
    return {
        "metrics": {
            "n_images": summary.n_images,
            **{
                f"{who}_growth_mib": peaks[-2][who] - peaks[1][who]
                for who in ("driver", "worker")
            },
        },
        "peaks_mib": peaks,
        "seconds": {"ray": round(seconds, 1)},
    }


def _study(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time a study of eight trainings on one worker and on two."""
    seconds = {}
    for n_workers in (1, _N_WORKERS):
        with loopback_cluster(n_workers) as address:
            command = ["reproduce", options.scenario, "--sizes", "small"]
            command += ["--seeds", *range(8), "--steps", options.steps]
            command += ["--preset", "quick", "--executor", "ray", "--address", address]
            command += ["--output", folder / str(n_workers)]
            seconds[str(n_workers)] = round(_commands(command), 1)
    return {
        "seconds": seconds,
        "metrics": {"speedup": seconds["1"] / seconds[str(_N_WORKERS)]},
    }


if __name__ == "__main__":
    sys.exit(main())
