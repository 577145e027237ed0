"""Run hostile cases, each in a process of its own that shares the loaded program.

    python -m tests.hostile.run FOLDER [--fast]

The program is imported once. Each case is a forked process, so that its time, memory,
open files, environment and death are its own. A line of JSON is printed for each case.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnxruntime  # noqa: F401 - loaded once for all cases
import openvino  # noqa: F401
from tests.hostile.case import REFUSED, Case
from tests.hostile.files import write_shared_files
from tests.hostile.table import CASES, fast_cases

import efficientad
from efficientad.cli.main import main
from efficientad.errors import EfficientADError

WALL_SECONDS = 900
"""Time after which a case hangs: long, as the machine may do other work."""
_MOST_BYTES = 8 * 2**30


@dataclass
class Result:
    """What a case did."""

    area: str
    name: str
    code: int | None = None
    """Exit code. None: it was killed, or ended with a traceback."""
    problems: list[str] = field(default_factory=list)
    """Differences from the defined outcome."""
    seconds: float = 0.0
    """Processor time."""
    mebibytes: float = 0.0
    """Peak memory beside the loaded program."""
    sentence: str = ""
    """Last line on stderr, or the error of a call."""


def in_a_process(function: Callable[[], Result], wall_seconds: int) -> Result | str:
    """Return the result of a function in a forked process, or how that one died."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(wall_seconds)
        try:
            told = json.dumps(asdict(function()))
        except BaseException:  # noqa: BLE001 - the parent shows it
            told = json.dumps(traceback.format_exc())
        os.write(writer, told.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(process, 0)
    if not told:
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    content = json.loads(told)
    return content if isinstance(content, str) else Result(**content)


def run_case(case: Case, folder: Path, shared: Path) -> Result:
    """Return what a case does in a new folder, which is removed afterwards."""
    place = folder / "case"
    place.mkdir()
    try:
        found = in_a_process(lambda: _inside(case, place, shared), WALL_SECONDS)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if isinstance(found, str):
        return Result(case.area, case.name, problems=[found])
    return found


def _inside(case: Case, place: Path, shared: Path) -> Result:
    os.chdir(place)
    for file in shared.iterdir():
        Path(file.name).symlink_to(file)
    Path("in").mkdir()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        case.prepare()
        _renew_streams()
        before = dict(snapshot(Path()))
        result = Result(case.area, case.name)
        with measured(result, case):
            problem = _outcome(case, result)
        os.chdir(place)
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    result.problems += [problem] if problem else []
    if case.call is None:
        result.sentence = said.rpartition("\n")[0].rpartition("\n")[2]
    result.problems += _problems(case, result, said, before)
    return result


def _renew_streams() -> None:
    """Open the standard streams as a new process does; those taken away stay away."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is not None:
            stream = open(number, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)


def _outcome(case: Case, result: Result) -> str:
    """Run a case, set its exit code, and return its traceback if there is one."""
    try:
        if case.call is None:
            result.code = main(list(case.command))
        else:
            case.call()
            result.code = 0
    except EfficientADError as error:
        if case.call is None:
            return traceback.format_exc()
        result.code, result.sentence = REFUSED, str(error)
    except BaseException:  # noqa: BLE001 - any other one is a fault
        return traceback.format_exc()
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
    return ""


def _problems(
    case: Case, result: Result, said: str, before: dict[str, str]
) -> Iterator[str]:
    """Yield the differences from the defined outcome."""
    is_refused = result.code == REFUSED
    if result.code not in case.codes:
        yield f"code {result.code}, needed {case.codes}"
    if "Traceback" in said:
        yield f"traceback on stderr: {said}"
    if is_refused:
        yield from _problems_of_sentence(case, result.sentence, said)
    else:
        try:
            case.check()
        except Exception:  # noqa: BLE001 - any error of a check is a problem
            yield f"check: {traceback.format_exc()}"
    yield from _problems_of_files(
        case, before, case.leaves if is_refused else case.makes
    )
    if result.seconds > case.seconds:
        yield f"{result.seconds:.1f} processor seconds, at most {case.seconds}"
    if result.mebibytes > case.mebibytes:
        yield f"{result.mebibytes:.0f} MiB, at most {case.mebibytes}"


def _problems_of_sentence(case: Case, sentence: str, said: str) -> Iterator[str]:
    lines = [line for line in said.splitlines() if line.startswith("efficientad: ")]
    if case.call is None and lines != [sentence]:
        yield f"needed one sentence as the last line on stderr, got {said!r}"
    if not sentence or "\n" in sentence:
        yield f"needed one sentence, got {sentence!r}"
    if case.words not in sentence:
        yield f"needed {case.words!r} in {sentence!r}"


def _problems_of_files(
    case: Case, before: dict[str, str], makes: tuple[str, ...]
) -> Iterator[str]:
    after = dict(snapshot(Path()))
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "new"), after.get(name, "gone")
        top = name.split("/")[1] if name.startswith("out/") else None
        is_removed = top in case.removes and new == "gone"
        if name != "out" and old != new and top not in makes and not is_removed:
            is_left = name.endswith(".partial")
            yield f"left behind: {name}" if is_left else f"{name}: {old} became {new}"
    yield from (f"out/{name}: missing" for name in makes if f"out/{name}" not in after)


@contextmanager
def measured(result: Result, case: Case) -> Iterator[None]:
    """Measure and limit processor time and memory inside the context."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    memory, start = _memory("VmRSS"), time.process_time()
    most = int(start) + 2 * case.seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        result.seconds = round(time.process_time() - start, 3)
        result.mebibytes = round(_memory("VmHWM") - memory, 1)


def _memory(name: str) -> float:
    """Return a size of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


def snapshot(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each path below a folder, and its content or kind."""
    for root, folders, files in os.walk(folder, onerror=None):
        for name in (*folders, *files):
            path = Path(root, name)
            try:
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode):
                    kind = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
                else:
                    kind = str(path.readlink()) if path.is_symlink() else oct(mode)
            except OSError as error:
                kind = str(error.strerror)
            yield str(path), kind


def _with_shared_files(shared: Path, *, fast: bool) -> Result:
    shared.mkdir(parents=True)
    write_shared_files(shared, has_results=not fast)
    return Result("", "")


def run_all(cases: Iterable[Case], folder: Path, *, fast: bool) -> Iterator[Result]:
    """Yield the results of cases, and one more where they changed shared files."""
    shared = folder / "shared"
    if not shared.is_dir():
        made = in_a_process(lambda: _with_shared_files(shared, fast=fast), WALL_SECONDS)
        if isinstance(made, str):
            raise RuntimeError(made)
    for name in efficientad.__all__:
        getattr(efficientad, name)  # each case has then what it needs
    before = dict(snapshot(shared))
    for case in cases:
        yield run_case(case, folder, shared)
    if dict(snapshot(shared)) != before:
        yield Result("images", "shared files", problems=["a case changed them"])


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fast", action="store_true", help="one case of each area")
    parser.add_argument("--only", default="", help="beginning of area/name, a pattern")
    given = parser.parse_args()
    cases = fast_cases() if given.fast else CASES
    chosen = tuple(case for case in cases if re.match(given.only, case.id))
    for result in run_all(chosen, given.folder.resolve(), fast=given.fast):
        sys.stdout.write(f"{json.dumps(asdict(result))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
