"""Hostile environments: results are whole, or there is one sentence."""

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.case import (
    IN,
    LISTS,
    OK,
    OUT,
    PREDICT,
    REFUSED,
    SOME_FAILED,
    Case,
    write,
)
from tests.hostile.images import black


def predicted(
    name: str,
    prepare: Callable[[], Any],
    codes: tuple[int, ...] = (OK,),
    command: tuple[str, ...] = PREDICT,
    **more: Any,
) -> Case:
    """Return a case of a sound prediction in an environment."""

    def change() -> None:
        shutil.copy("good.png", IN / "a.png")
        prepare()

    given = {"makes": LISTS, **more}
    return Case(
        area="environment",
        name=name,
        prepare=change,
        command=command,
        codes=codes,
        **given,
    )


def streams_to(path: str, *numbers: int) -> None:
    """Redirect standard streams to a file."""
    for number in numbers:
        os.dup2(os.open(path, os.O_RDWR), number)


def closed_pipe(number: int) -> None:
    """Redirect a standard stream to a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, number)


def without(*names: str) -> None:
    """Take standard streams away, as for a service without a console."""
    for name in names:
        setattr(sys, name, None)


def variables(**values: str | None) -> None:
    """Set or remove environment variables."""
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def limit(kind: int, most: int) -> None:
    """Limit a resource of the process."""
    resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def small_files() -> None:
    """Limit the size of files, so that the list of many images cannot be written."""
    for number in range(9):
        shutil.copy("good.png", IN / f"{number}.png")
    limit(resource.RLIMIT_FSIZE, 500)


def little_memory() -> None:
    """Limit the memory, so that one of two pictures does not fit."""
    write(IN / "big.png", black(14_000, 14_000))
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit(resource.RLIMIT_AS, n_pages * resource.getpagesize() + 700 * 2**20)


def check_large() -> None:
    """Assert that one row has the reason, and the other a score."""
    text = (OUT / LISTS[0]).read_text()
    assert "in/big.png does not; reduce it" in text
    assert len([line for line in text.splitlines() if ",normal," in line]) == 1, text


VARIABLES: dict[str, dict[str, str | None]] = {
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
    "an empty HOME": {"HOME": "", "XDG_CACHE_HOME": None},
    "a HOME that is a file": {"HOME": "/etc/passwd", "XDG_CACHE_HOME": None},
    "a HOME that is missing": {"HOME": "/gone", "XDG_CACHE_HOME": "/proc/gone"},
    "a cache that is a device": {"XDG_CACHE_HOME": "/dev/null"},
    "a relative cache": {"XDG_CACHE_HOME": "../cache-of-hostile-case"},
    "no PATH": {"PATH": None},
    "an empty PATH": {"PATH": ""},
    "a TMPDIR that is missing": {"TMPDIR": "/gone"},
    "the locale C": {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"},
    "an unknown locale": {"LC_ALL": "xx_YY.KOI8-R"},
    "a hidden GPU": {"CUDA_VISIBLE_DEVICES": "-1"},
    "a GPU that is no number": {"CUDA_VISIBLE_DEVICES": "none"},
    "threads that are no number": {"OMP_NUM_THREADS": "many"},
    "a terminal without columns": {"COLUMNS": "0", "TERM": "dumb"},
    "no variables": dict.fromkeys(os.environ),
}
PARTIAL = tuple(f"{name}.partial" for name in LISTS)
OUTPUTS = {
    "a file": "good.png",
    "a folder below a file": "good.png/out",
    "a device": "/dev/null",
    "a folder of devices": "/dev/null/out",
    "a system folder": "/proc/out",
    "a link to itself": "in/loop",
}


def cases() -> Iterator[Case]:
    """Yield all cases of environments."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        codes = (REFUSED,) if number == 1 else (OK,)
        full = partial(streams_to, "/dev/full", number)
        yield predicted(
            f"{name} on a full disk",
            full,
            codes,
            words="all result files are whole",
            leaves=LISTS,
        )
        yield predicted(f"{name} closed by its reader", partial(closed_pipe, number))
        yield predicted(f"no {name}", partial(without, name))
    yield predicted("no streams at all", partial(without, "stdin", "stdout", "stderr"))
    for name, values in VARIABLES.items():
        yield predicted(name, partial(variables, **values))
    yield predicted("an umask of 0777", partial(os.umask, 0o777))
    few = partial(limit, resource.RLIMIT_NOFILE, 24)
    yield predicted("24 open files", few)
    yield predicted("little memory", little_memory, (SOME_FAILED,), check=check_large)
    yield predicted("files of 500 bytes", small_files, (REFUSED,), leaves=PARTIAL)
    for name, output in OUTPUTS.items():
        yield predicted(
            f"output is {name}",
            lambda: (IN / "loop").symlink_to("loop"),
            (REFUSED,),
            (*PREDICT[:3], "--output", output),
            makes=(),
        )
    for name, command in {
        "train": ("train", "normal", "--output"),
        "calibrate": ("calibrate", "part.ead", "normal", "--output"),
        "export": ("export", "part.ead", "--output"),
    }.items():
        ending = "onnx" if name == "export" else "ead"
        for output in ("good.png/a", "/dev/null/a", "/proc/a", "in/loop/a"):
            yield predicted(
                f"{name} to {output}",
                lambda: (IN / "loop").symlink_to("loop"),
                (REFUSED,),
                (*command, f"{output}.{ending}"),
                makes=(),
            )
    yield predicted(
        "earlier results",
        lambda: [write(OUT / name, "earlier") for name in LISTS],
    )


CASES = tuple(cases())
