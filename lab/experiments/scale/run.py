"""Studies and predictions by several workers on Ray, beside plain processes.

    python lab/experiments/scale/run.py inference --model part.ead
    python lab/experiments/scale/run.py memory --model part.ead --n-images 10000
    python lab/experiments/scale/run.py kills --model part.ead --n-images 400
    python lab/experiments/scale/run.py study

A cluster of two CPUs is started on this machine before the clock, and stopped. Commands
are `efficientad`'s own, each process with one thread.
"""

import argparse
import csv
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from pyarrow import parquet

from efficientad.demo_parts import write_category
from efficientad.executors.config import PartsConfig
from efficientad.images.rgb import decode_image
from efficientad.inspection.opening import load
from efficientad.shards.parts import predict_parts
from efficientad_lab.benchmark.memory import own_peak_mib, peak_mib
from efficientad_lab.environment import environment
from efficientad_lab.ray_cluster import (
    SETTINGS,
    loopback_cluster,
    processor_seconds,
    workers,
)
from efficientad_lab.studies.records import write_run

RESULTS = Path(__file__).with_name("results")
_N_WORKERS: Final = 2
_N_TIMED: Final = 40
_SECONDS_BETWEEN: Final = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=[*_MEASURES])
    parser.add_argument("--model", type=Path, help="detector file")
    parser.add_argument("--n-images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256, help="height and width")
    parser.add_argument("--part-size", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2, help="times of each form")
    parser.add_argument("--steps", type=int, default=30, help="of each training")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    os.environ.update(SETTINGS, OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as name:
        if options.what == "study":
            write_category(
                Path(name, "parts"), n_train=30, n_test_good=6, n_per_defect=2, seed=0
            )
        else:
            _draw(Path(name, "images"), options.n_images, options.size)
        measured = _MEASURES[options.what](options, Path(name))
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


def _commands(*commands: Sequence[object], address: str) -> tuple[float, float]:
    """Run commands of `efficientad` at the same time.

    Returns:
        Seconds, and processor seconds of the commands and the cluster.
    """
    before = processor_seconds(address)
    own = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    costs: dict[int, float] = {}
    start = time.perf_counter()
    program = [sys.executable, "-m", "efficientad"]
    processes = [
        subprocess.Popen(  # noqa: S603 - efficientad
            [*program, *map(str, command)], stdout=subprocess.DEVNULL
        )
        for command in commands
    ]
    while any(process.poll() is None for process in processes):
        costs |= processor_seconds(address)  # workers end with the command
        time.sleep(_SECONDS_BETWEEN)
    seconds = time.perf_counter() - start
    if any(process.returncode for process in processes):
        raise RuntimeError(f"one of these failed: {commands}")
    own = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - own
    return seconds, own + sum(costs.values()) - sum(before.get(p, 0) for p in costs)


def _inference(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time plain processes, local workers and Ray in turn, and compare the scores."""
    halves = sorted((folder / "images").iterdir())
    times: dict[str, list[tuple[float, float]]] = {"plain": [], "local": [], "ray": []}
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
            times["plain"].append(_commands(*plain, address=address))
            for form, choice in forms.items():
                command = ["predict", options.model, *halves, *parts, *choice]
                command += ["--output", place / form]
                times[form].append(_commands(command, address=address))
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
    best = {form: min(each) for form, each in times.items()}
    least = {form: min(cost for _, cost in each) for form, each in times.items()}
    return {
        **_rounded(times),
        "metrics": {
            **{f"images_per_s_{k}": options.n_images / t for k, (t, _) in best.items()},
            **{f"{form}_to_plain": best["plain"][0] / best[form][0] for form in forms},
            **{
                f"{form}_to_plain_by_processor_time": least["plain"] / least[form]
                for form in forms
            },
            **_service_times(options.model, folder / "images"),
        },
    }


def _rounded(times: Mapping[str, list[tuple[float, float]]]) -> dict[str, Any]:
    return {
        name: {
            form: [round(pair[place], 1) for pair in each]
            for form, each in times.items()
        }
        for place, name in enumerate(("seconds", "processor_seconds"))
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
            worker = max(map(peak_mib, workers(address)))
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


def _kills(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill a worker, and then the driver, and count what is done twice or lost."""
    images, output = folder / "images", folder / "parts"
    n_killed = 0

    def parts() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}

    with loopback_cluster(_N_WORKERS) as address:
        command = ["predict", options.model, images, "--output", output]
        command += ["--executor", "ray", "--address", address]
        command += ["--part-size", options.part_size]
        driver = subprocess.Popen(  # noqa: S603 - efficientad
            [sys.executable, "-m", "efficientad", *map(str, command)]
        )
        n_parts = options.n_images // options.part_size
        while len(parts()) < n_parts // 2:
            time.sleep(0.05)
            if not n_killed and len(parts()) >= n_parts // 4:
                for process in workers(address):
                    os.kill(process, signal.SIGKILL)
                    n_killed += 1
        driver.kill()
        driver.wait()
        while workers(address):
            time.sleep(0.05)
        written = parts()
        _commands(command, address=address)
    now = parts()
    rows = parquet.read_table(output)["path"].to_pylist()
    return {
        "metrics": {
            "workers_killed": n_killed,
            "parts_before_the_driver_was_killed": len(written),
            "parts_done_again": sum(now[path] != at for path, at in written.items()),
            "images_missing": options.n_images - len(set(rows)),
            "images_twice": len(rows) - len(set(rows)),
        }
    }


def _study(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time a study of eight trainings on one worker and on two."""
    times: dict[str, list[tuple[float, float]]] = {}
    for n_workers in (1, _N_WORKERS):
        with loopback_cluster(n_workers) as address:
            command = ["reproduce", folder / "parts", "--sizes", "small"]
            command += ["--seeds", *range(8), "--steps", options.steps]
            command += ["--preset", "quick", "--executor", "ray", "--address", address]
            command += ["--output", folder / str(n_workers)]
            times[str(n_workers)] = [_commands(command, address=address)]
    (one,), (two,) = times.values()
    return {**_rounded(times), "metrics": {"speedup": one[0] / two[0]}}


_MEASURES: Final = {
    "inference": _inference,
    "memory": _memory,
    "kills": _kills,
    "study": _study,
}


if __name__ == "__main__":
    sys.exit(main())
