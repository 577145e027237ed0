"""Recorded runs: one JSON file each, whole or not there.

A run names its experiment, category, variant and seed, which together are the name of
its file. It holds what was measured, and where and with what (`surroundings`); or, if
it failed, the reason, and then it is tried again. No torch here.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from efficientad.errors import ResultError
from efficientad.storage import write_atomically

Run = dict[str, Any]

FORMAT_VERSION: Final = 1
"""Of a run's fields. A file that tells none is of the first version."""

_FORMAT, FAILURE = "format", "failure"
_REQUIRED: Final = {"experiment": str, "category": str, "variant": str, "seed": int}
_OF_FINISHED: Final = {"metrics": dict, "machine": str, "versions": dict, "commit": str}
"""Besides, where there is no failure."""


def file_name(run: Run) -> str:
    """Give the name of a run's file, as benchmarks/README.md says."""
    return f"{run_name(run)}.json"


def run_name(run: Run) -> str:
    """Name a run: experiment, category, variant and seed; lower case, no spaces."""
    variant = "_".join(run["variant"].replace(",", " ").split())
    parts = (run["experiment"], run["category"], variant, f"seed{run['seed']}")
    return name_in_files("_".join(parts))


def name_in_files(name: str) -> str:
    """Give what stands for a name in the names of files, on every system."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name.lower())


def write_run(run: Run, folder: Path) -> Path:
    """Write a run to its file.

    Args:
        run: Everything about it, surroundings included.
        folder: Of all runs; made if it is not there.

    Raises:
        StorageError: If it cannot be written; what stood there stays.
    """
    path = folder / file_name(run)
    full = {**run, _FORMAT: FORMAT_VERSION}
    write_atomically(path, f"{json.dumps(full, indent=1, allow_nan=False)}\n".encode())
    return path


def read_run(path: Path) -> Run:
    """Read one recorded run.

    Raises:
        ResultError: If it is no JSON, no run, or of another version.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(
            f"needed a recorded run, {path} cannot be read as JSON ({error}); remove "
            "it, and the run is made again"
        ) from error
    if not isinstance(run, dict) or _lacks(run, _REQUIRED):
        raise ResultError(
            f"needed a recorded run with {', '.join(_REQUIRED)}, {path} is something "
            "else; move it away"
        )
    version = run.get(_FORMAT, 1)
    if version != FORMAT_VERSION:
        raise ResultError(
            f"{path} is a run of format {version}, this efficientad reads "
            f"{FORMAT_VERSION}; use the efficientad that wrote it, or another folder"
        )
    missing = _lacks(run, _OF_FINISHED) if is_finished(run) else []
    if missing:
        raise ResultError(
            f"needed a finished run with {', '.join(_OF_FINISHED)}, {path} lacks "
            f"{', '.join(missing)}; remove it, and the run is made again"
        )
    return run


def _lacks(run: Run, required: Mapping[str, type]) -> list[str]:
    return [n for n, kind in required.items() if not isinstance(run.get(n), kind)]


def read_runs(folder: Path) -> list[Run]:
    """Read all recorded runs, by experiment, category, variant and seed.

    Raises:
        ResultError: If one cannot be used; the message names its file.
    """
    runs = [read_run(path) for path in sorted(folder.glob("*.json"))]
    return sorted(
        runs, key=lambda r: (r["experiment"], r["category"], r["variant"], r["seed"])
    )


def differing_settings(recorded: Run, asked: Run) -> list[str]:
    """Name the settings that a recorded run has otherwise than a run asked for."""
    before, now = recorded.get("settings", {}), asked["settings"]
    return sorted(name for name in before | now if before.get(name) != now.get(name))


def recorded_file(
    asked: Run,
    folder: Path,
    differing: Callable[[Run, Run], list[str]] = differing_settings,
) -> Path | None:
    """Give the file of a finished run; none of a failed one, to be tried again.

    Args:
        asked: The names and settings of the run.
        folder: Of all runs.
        differing: Names what a recorded run (first) has otherwise than the one asked
            for, and what changes the result.

    Raises:
        ResultError: If its file cannot be read, or if anything differs: a result of
            other settings is not the one asked for.
    """
    path = folder / file_name(asked)
    if not path.exists():
        return None
    run = read_run(path)
    if not is_finished(run):
        return None
    others = differing(run, asked)
    if others:
        raise ResultError(
            f"{path} was recorded with other settings than those asked for "
            f"({', '.join(others)}); remove it, or give another folder of results"
        )
    return path


def is_finished(run: Run) -> bool:
    """Whether a run has been measured to its end."""
    return FAILURE not in run


def mean_and_deviation(values: Sequence[float], n_digits: int) -> str:
    """Write the mean of some runs, and the standard deviation if there are several."""
    mean = f"{statistics.fmean(values):.{n_digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{n_digits}f}"


def short_commit(name: str) -> str:
    """Shorten the hash of a recorded commit; a `-dirty` behind it stays."""
    digest, dash, state = name.partition("-")
    return f"{digest[:9]}{dash}{state}"


def where_recorded(runs: Iterable[Run]) -> str:
    """Say on which machines, with which versions, from which commits, in a sentence."""
    runs = list(runs)
    machines = "; ".join(sorted({run["machine"] for run in runs}))
    computed_by = [
        run.get("peer", {}).get("versions", {"torch": run["versions"]["torch"]})
        for run in runs
    ]
    libraries = ", ".join(
        sorted({f"{name} {v}" for found in computed_by for name, v in found.items()})
    )
    commits = ", ".join(sorted({f"`{short_commit(run['commit'])}`" for run in runs}))
    return f"Recorded on {machines}; {libraries}; commit {commits}."
