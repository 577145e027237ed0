"""The hostile cases of the tests, counted by area and outcome.

    python lab/experiments/reliability/run.py

Each case is a process of its own; `tests/hostile` has the table. The run of an area has
the slowest case and the one with the most memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from efficientad_lab.environment import environment
from efficientad_lab.studies.records import Run, write_run

RESULTS = Path(__file__).with_name("results")
REPOSITORY = Path(__file__).resolve().parents[3]
_DONE, _SOME_FAILED, _REFUSED = 0, 1, 2
_OUTCOMES: Final = {
    "n_done": _DONE,
    "n_some_failed": _SOME_FAILED,
    "n_refused": _REFUSED,
}


def results(only: str) -> Iterator[dict[str, Any]]:
    """Yield what each case did."""
    command = [sys.executable, "-m", "tests.hostile.run", "--only", only]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, str(Path(folder) / "cases")],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
        if process.wait() != 0:
            raise SystemExit(process.returncode)


def run_of(area: str, cases: Sequence[dict[str, Any]]) -> Run:
    """Return the recorded run of an area."""
    slowest = max(cases, key=lambda case: case["seconds"])
    largest = max(cases, key=lambda case: case["mebibytes"])
    others = [case["name"] for case in cases if case["problems"]]
    counts = {
        name: sum(case["code"] == code for case in cases)
        for name, code in _OUTCOMES.items()
    }
    run: Run = {
        "experiment": "reliability",
        "category": area,
        "variant": "hostile cases",
        "seed": 0,
        "settings": {},
        "metrics": {
            "n_cases": len(cases),
            **counts,
            "n_as_defined": len(cases) - len(others),
            "processor_seconds": slowest["seconds"],
            "peak_memory_mib": largest["mebibytes"],
        },
        "slowest": slowest["name"],
        "most_memory": largest["name"],
    }
    return run | ({"others": others} if others else {})


def main() -> None:
    """Run and record all areas, or those that a pattern names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="beginning of area/name, a pattern")
    given = parser.parse_args()
    for area, cases in groupby(results(given.only), key=lambda case: case["area"]):
        print(write_run(run_of(area, list(cases)) | environment(), RESULTS), flush=True)


if __name__ == "__main__":
    main()
