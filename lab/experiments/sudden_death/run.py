"""Commands killed at random moments, and run again.

    python -m lab.experiments.sudden_death.run --kills 100

Each command runs once undisturbed, which gives its results and its time. Then it is
killed (SIGKILL) at a random moment of that time and run again, with --resume where it
has that. Results must equal the undisturbed ones, and nothing else may stay.
Each process is forked from this one, which has loaded the program.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from tests.conftest import _random_resnet18

import efficientad
from efficientad.cli.main import main as command_line
from efficientad.demo_parts import write_category
from efficientad.model_files import container
from efficientad.training import run as training
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import Run, write_run

RESULTS = Path(__file__).with_name("results")
_TRAIN: Final = (
    *("--steps", "6", "--batch-size", "1", "--device", "cpu", "--preset", "paper"),
    *("--no-has-pretraining-penalty", "--resume"),
)
_DISTILL: Final = (
    *("--source", "source.safetensors", "--preset", "quick", "--image-size", "64"),
    *("--steps", "6", "--batch-size", "2", "--n-held-out", "2", "--device", "cpu"),
    *("--checkpoint-every", "1", "--feature-cache", "out/features", "--resume"),
)
_REPRODUCE: Final = (
    *("--sizes", "small", "--seeds", "0", "1", "--steps", "2", "--batch-size", "1"),
    *("--preset", "paper", "--device", "cpu"),
)
_OF_TIME: Final = (
    *("milliseconds", "training_seconds", "seconds", "latency_ms", "load"),
    *("seconds_waited", "seconds_waited_for_data", "hours", "preparation_hours"),
    *("peak_memory_mib", "interrupted"),
)
_KINDS: Final[dict[str, Any]] = {
    ".ead": "detector",
    ".safetensors": "teacher",
    ".checkpoint": "checkpoint",
}


class Job(NamedTuple):
    """A command that is killed; its folder of results is `out`."""

    command: tuple[str, ...]
    earlier: Mapping[str, str] = {}
    """Files that stand in `out` before, and what they are copies of."""


JOBS: Final = {
    "train": Job(("train", "parts/train/good", "--output", "out/part.ead", *_TRAIN)),
    "predict": Job(("predict", "part.ead", "parts/test", "--output", "out", "--maps")),
    "evaluate": Job(("evaluate", "part.ead", "parts", "--output", "out")),
    "calibrate": Job(
        ("calibrate", "out/part.ead", "others/train/good", "--output", "out/part.ead"),
        {"part.ead": "part.ead"},
    ),
    "distill": Job(
        ("distill", "parts/train/good", "--output", "out/a.safetensors", *_DISTILL)
    ),
    "reproduce": Job(("reproduce", "parts", "--output", "out", *_REPRODUCE)),
    "export": Job(("export", "part.ead", "--output", "out/part.onnx")),
    "threshold": Job(
        ("threshold", "out/part.ead", "--at", "0.2", "--force"),
        {"part.ead": "part.ead"},
    ),
}


def started(command: tuple[str, ...]) -> int:
    """Return the number of a process that runs a command silently."""
    process = os.fork()
    if process == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        training._CHECKPOINT_SECONDS = 0.0  # noqa: SLF001 - one after each step
        os._exit(command_line(list(command)))
    return process


def finished(command: tuple[str, ...]) -> float:
    """Run a command to its end and return its seconds."""
    start = time.monotonic()
    _, status = os.waitpid(started(command), 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {status}")
    return time.monotonic() - start


def killed(command: tuple[str, ...], seconds: float) -> bool:
    """Run a command, kill it after a time, and return whether it still ran."""
    process = started(command)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def renewed(job: Job) -> None:
    """Make the folder of results as it is before the command."""
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir()
    for name, source in job.earlier.items():
        shutil.copy(source, Path("out") / name)


def without_times(value: object) -> object:
    """Return a JSON value without what differs between any two runs."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _OF_TIME}
        return {name: without_times(inner) for name, inner in kept.items()}
    return list(map(without_times, value)) if isinstance(value, list) else value


def content_of(path: Path) -> bytes:
    """Return what must be equal in two files of a kind."""
    match path.suffix:
        case ".ead" | ".safetensors" | ".checkpoint":
            arrays, content = container.read(path, _KINDS[path.suffix])
            told = json.dumps(without_times(content), sort_keys=True).encode()
            return told + b"".join(arrays[name].tobytes() for name in sorted(arrays))
        case ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return repr(list(map(without_times, csv.DictReader(file)))).encode()
        case ".json" | ".jsonl":
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else ()
            values = list(map(json.loads, lines or (path.read_text(),)))
            return repr(list(map(without_times, values))).encode()
        case ".html" | ".md":
            return b""  # they show times, and follow from the recorded results
        case _:
            return path.read_bytes()


def state_of_results() -> dict[str, str]:
    """Return a hash of each file in `out`, by its path."""
    return {
        str(path): hashlib.sha256(content_of(path)).hexdigest()
        for path in sorted(Path("out").rglob("*"))
        if path.is_file()
    }


def kill_and_repeat(
    job: Job, seconds: float, whole: Mapping[str, str], rng: np.random.Generator
) -> Counter[str]:
    """Return the counts of one kill: what it met, and what came of it."""
    renewed(job)
    earlier = state_of_results()
    counts = Counter({"n_kills": 1})
    counts["n_killed_at_work"] = killed(job.command, rng.uniform(0, seconds))
    for name, content in named_results().items():
        counts["n_half_results"] += content not in {whole.get(name), earlier.get(name)}
    finished(job.command)
    after = state_of_results()
    counts["n_equal"] = all(after.get(name) == whole[name] for name in whole)
    counts["n_left_behind"] = len(after.keys() - whole.keys())
    return counts


def named_results() -> dict[str, str]:
    """Return the results that have their names after a kill."""
    temporary = {".checkpoint", ".partial"}
    return {
        str(path): hashlib.sha256(content_of(path)).hexdigest()
        for path in Path("out").rglob("*")
        # A folder of results is temporary as well until it is whole.
        if path.is_file() and not temporary & {Path(p).suffix for p in path.parts}
    }


def measured(name: str, n_kills: int, seed: int) -> Run:
    """Return the recorded run of one command."""
    job, rng = JOBS[name], np.random.default_rng(seed)
    renewed(job)
    seconds = finished(job.command)
    whole = state_of_results()
    counts: Counter[str] = Counter()
    for _ in range(n_kills):
        counts += kill_and_repeat(job, seconds, whole, rng)
    names = ("n_kills", "n_killed_at_work", "n_equal", "n_half_results")
    return {
        "experiment": "sudden_death",
        "category": "demo_parts",
        "variant": name,
        "seed": seed,
        "settings": {"command": list(job.command)},
        "metrics": {key: counts[key] for key in (*names, "n_left_behind")},
    }


def main() -> None:
    """Kill all commands in turn and record what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="of all commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(JOBS), choices=list(JOBS))
    given = parser.parse_args()
    torch.set_num_threads(1)  # a forked child cannot use threads of its parent
    for name in efficientad.__all__:
        getattr(efficientad, name)
    shares: dict[str, int] = {
        name: (given.kills + index) // len(given.only)
        for index, name in enumerate(given.only)
    }
    results = RESULTS.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed, name in enumerate(("parts", "others")):
            write_category(
                Path(name),
                n_train=10,
                n_test_good=2,
                n_per_defect=1,
                seed=seed,
                size=64,
            )
        finished((*JOBS["train"].command[:3], "part.ead", *_TRAIN))
        save_file(_random_resnet18(), "source.safetensors")
        for name, n_kills in shares.items():
            run = measured(name, n_kills, given.seed)
            print(write_run(run | environment(), results), run["metrics"], flush=True)
        os.chdir(results.parent)


if __name__ == "__main__":
    main()
