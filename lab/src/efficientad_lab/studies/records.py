"""Recorded runs: one JSON file for each run.

Experiment, category, variant and seed identify a run and make up its file name. A run
holds the measurements and their environment. A failed run holds the reason instead, and
is tried again. No torch here.
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
"""Version of a run's fields. A file without it has the first version."""

_FORMAT, FAILURE = "format", "failure"
_REQUIRED: Final = {"experiment": str, "category": str, "variant": str, "seed": int}
_REQUIRED_IF_FINISHED: Final = {
    "metrics": dict,
    "machine": str,
    "versions": dict,
    "commit": str,
}


def file_name(run: Run) -> str:
    """Return the name of a run's file."""
    return f"{run_name(run)}.json"


def run_name(run: Run) -> str:
    """Return experiment, category, variant and seed in lower case without spaces."""
    variant = "_".join(run["variant"].replace(",", " ").split())
    parts = (run["experiment"], run["category"], variant, f"seed{run['seed']}")
    return name_in_files("_".join(parts))


def name_in_files(name: str) -> str:
    """Return the form of a name that every file system accepts."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name.lower())


def write_run(run: Run, folder: Path) -> Path:
    """Write a run to its file in an atomic write, and return the path.

    Args:
        run: All fields, including those of the environment.
        folder: Folder of the results; made if it is missing.

    Raises:
        StorageError: If it cannot be written; the previous file stays.
    """
    path = folder / file_name(run)
    full = {**run, _FORMAT: FORMAT_VERSION}
    write_atomically(path, f"{json.dumps(full, indent=1, allow_nan=False)}\n".encode())
    return path


def read_run(path: Path) -> Run:
    """Read one recorded run.

    Raises:
        ResultError: If it is not JSON, not a run, or has another version.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(
            f"needed a recorded run, {path} cannot be read as JSON ({error}); remove "
            "it, and the run is made again"
        ) from error
    if not isinstance(run, dict) or _missing(run, _REQUIRED):
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
    missing = _missing(run, _REQUIRED_IF_FINISHED) if is_finished(run) else []
    if missing:
        raise ResultError(
            f"needed a finished run with {', '.join(_REQUIRED_IF_FINISHED)}, {path} "
            f"lacks {', '.join(missing)}; remove it, and the run is made again"
        )
    return run


def _missing(run: Run, required: Mapping[str, type]) -> list[str]:
    return [n for n, kind in required.items() if not isinstance(run.get(n), kind)]


def read_runs(folder: Path) -> list[Run]:
    """Read all recorded runs, sorted by experiment, category, variant and seed.

    Raises:
        ResultError: If one cannot be used; the message names its file.
    """
    runs = [read_run(path) for path in sorted(folder.glob("*.json"))]
    return sorted(
        runs, key=lambda r: (r["experiment"], r["category"], r["variant"], r["seed"])
    )


def differing_settings(recorded: Run, requested: Run) -> list[str]:
    """Return the names of settings that differ between two runs."""
    before, now = recorded.get("settings", {}), requested["settings"]
    return sorted(name for name in before | now if before.get(name) != now.get(name))


def recorded_file(
    requested: Run,
    folder: Path,
    differing: Callable[[Run, Run], list[str]] = differing_settings,
) -> Path | None:
    """Return the file of a finished run, or None if there is none.

    Args:
        requested: Names and settings of the run.
        folder: Folder of the results.
        differing: Function that names the settings in which a recorded run and the
            requested one differ.

    Raises:
        ResultError: If the file cannot be read or any setting differs.
    """
    path = folder / file_name(requested)
    if not path.exists():
        return None
    run = read_run(path)
    if not is_finished(run):
        return None
    others = differing(run, requested)
    if others:
        raise ResultError(
            f"{path} was recorded with other settings than those asked for "
            f"({', '.join(others)}); remove it, or give another folder of results"
        )
    return path


def is_finished(run: Run) -> bool:
    """Return whether a run has measurements."""
    return FAILURE not in run


def mean_and_deviation(values: Sequence[float], n_digits: int) -> str:
    """Format a mean, with the standard deviation if there are several values."""
    mean = f"{statistics.fmean(values):.{n_digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{n_digits}f}"


def short_commit(name: str) -> str:
    """Return the first nine digits of a commit, with `-dirty` if it has that."""
    digest, dash, state = name.partition("-")
    return f"{digest[:9]}{dash}{state}"


def where_recorded(runs: Iterable[Run]) -> str:
    """Return one sentence on machines, versions and commits of some runs."""
    runs = list(runs)
    machines = "; ".join(sorted({run["machine"] for run in runs}))
    versions = [
        run.get("peer", {}).get("versions", {"torch": run["versions"]["torch"]})
        for run in runs
    ]
    libraries = ", ".join(
        sorted({f"{name} {v}" for found in versions for name, v in found.items()})
    )
    commits = ", ".join(sorted({f"`{short_commit(run['commit'])}`" for run in runs}))
    return f"Recorded on {machines}; {libraries}; commit {commits}."
