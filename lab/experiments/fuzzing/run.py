"""Damaged files for everything that reads files, for a given time.

    python -m lab.experiments.fuzzing.run --minutes 60
    python -m lab.experiments.fuzzing.run --case "TIFF images" 4711

Each case follows from the seed and its number. Right is a result, or an error of this
package. A finding is another error, a line on stderr, a process that dies, more than a
minute, or more than 3 GiB.
"""

import argparse
import json
import mmap
import os
import resource
import signal
import struct
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any, Final

import numpy as np

from efficientad.cli.process import logging_to_stderr
from efficientad.errors import EfficientADError
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import write_run
from lab.experiments.fuzzing.model_readers import model_readers
from lab.experiments.fuzzing.readers import Reader, readers

RESULTS: Final = Path(__file__).resolve().with_name("results")
_TURN_SECONDS: Final = 10.0
_CASE_SECONDS: Final = 60
_MOST_BYTES: Final = 3 * 2**30
"""A picture may have 200 million pixels, so 3 GB are needed in the worst case."""
_TOO_LARGE: Final = "more than 3 GiB"
_FINDINGS: Final = Path("findings")
_COUNTS: Final = struct.Struct("qqq")
"""Cases begun, results and refusals."""


def outcome(reader: Reader, number: int, seed: int) -> str:
    """Return `read`, `refused` or what is wrong with a case."""
    path = Path(reader.file_name)
    path.write_bytes(reader.make(np.random.default_rng((seed, number))))
    before = os.fstat(2).st_size
    try:
        reader.read(path)
        ended = "read"
    except EfficientADError as error:
        ended = "refused" if "\n" not in str(error) else "a sentence of several lines"
    except BaseException as error:  # noqa: BLE001 - any other one is a finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(last.filename).name}, {last.name}"
    if os.fstat(2).st_size > before:
        return f"stderr: {os.pread(2, 60, before).decode(errors='replace')}"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > _MOST_BYTES:
        return _TOO_LARGE
    return ended


def work(reader: Reader, first: int, seed: int, shared: mmap.mmap) -> None:
    """Run cases for one turn, note their counts, and write findings to a file."""
    log = os.open("stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (2 * _MOST_BYTES, resource.RLIM_INFINITY))
    end, number, n_read, n_refused = time.monotonic() + _TURN_SECONDS, first, 0, 0
    with logging_to_stderr():  # as in every command
        while time.monotonic() < end:
            shared[: _COUNTS.size] = _COUNTS.pack(number + 1, n_read, n_refused)
            found = outcome(reader, number, seed)
            n_read, n_refused = (
                n_read + (found == "read"),
                n_refused + (found == "refused"),
            )
            number += 1
            if found not in {"read", "refused"}:
                with _FINDINGS.open("a") as file:
                    file.write(f"{json.dumps([found, number - 1])}\n")
                if found == _TOO_LARGE:  # the peak stays, so a new process goes on
                    break
    shared[: _COUNTS.size] = _COUNTS.pack(number, n_read, n_refused)


def turn(reader: Reader, first: int, seed: int) -> tuple[int, int, int, list[Any]]:
    """Run cases in a process of their own, which may die.

    Returns:
        The number of the next case, of results and of refusals, and findings with the
        numbers of their cases.
    """
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    shared[: _COUNTS.size] = _COUNTS.pack(first, 0, 0)
    _FINDINGS.write_text("")
    process = os.fork()
    if process == 0:
        try:
            work(reader, first, seed, shared)
        finally:
            os._exit(0)
    begun, since, status = first, time.monotonic(), None
    while status is None:
        time.sleep(0.05)
        done, code = os.waitpid(process, os.WNOHANG)
        status = code if done else None
        now = _COUNTS.unpack(shared[: _COUNTS.size])[0]
        if now != begun:
            begun, since = now, time.monotonic()
        if time.monotonic() - since > _CASE_SECONDS:
            os.kill(process, signal.SIGALRM)
    next_case, n_read, n_refused = _COUNTS.unpack(shared[: _COUNTS.size])
    findings = [json.loads(line) for line in _FINDINGS.read_text().splitlines()]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        findings.append([f"ended by {name}", next_case - 1])
    return next_case, n_read, n_refused, findings


def record(counts: Mapping[str, Any], facts: dict[str, Any], seed: int) -> None:
    """Write the run of each reader."""
    for name, found in counts.items():
        findings = found["findings"]
        run = {
            "experiment": "fuzzing",
            "category": name,
            "variant": "damaged files",
            "seed": seed,
            "settings": {},
            "metrics": {k: v for k, v in found.items() if k != "findings"}
            | {"n_findings": len(findings)},
            "findings": findings,
        }
        write_run(run | facts, RESULTS)


def fuzz(chosen: Mapping[str, Reader], seconds: float, seed: int) -> None:
    """Run the cases of each reader in turns of ten seconds, and record them."""
    facts = environment()
    counts: dict[str, Any] = {
        name: {"n_cases": 0, "n_read": 0, "n_refused": 0, "minutes": 0, "findings": {}}
        for name in chosen
    }
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, reader in chosen.items():
            found, start = counts[name], time.monotonic()
            found["n_cases"], n_read, n_refused, findings = turn(
                reader, found["n_cases"], seed
            )
            found["n_read"] += n_read
            found["n_refused"] += n_refused
            found["minutes"] += (time.monotonic() - start) / 60
            for what, number in findings:
                kind = found["findings"].setdefault(what, {"case": number, "n": 0})
                kind["n"] += 1
            print(name, found, flush=True)
        record(counts, facts, seed)


def main() -> None:
    """Run cases and record what came of them, or show a single one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="beginning of a reader's name")
    parser.add_argument("--light", action="store_true", help="without model files")
    parser.add_argument("--case", nargs=2, metavar=("READER", "NUMBER"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        made = readers() | ({} if given.light else model_readers())
        warnings.simplefilter("ignore")
        if not given.case:
            chosen = {k: v for k, v in made.items() if k.startswith(given.only)}
            fuzz(chosen, 60 * given.minutes, given.seed)
            return
        reader = made[given.case[0]]
        content = reader.make(np.random.default_rng((given.seed, int(given.case[1]))))
        path = Path(reader.file_name)
        path.write_bytes(content)
        print(content[:2000])
        reader.read(path)


if __name__ == "__main__":
    main()
