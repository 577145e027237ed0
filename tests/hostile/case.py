"""The one type of all hostile cases: what goes in, and what must come out.

A case runs in a folder of its own, where `part.ead`, `part.onnx`, `part.xml`, `normal`
and `good.png` stand. `prepare` writes its inputs to `in`, and to `out` what stood there
earlier. Then the command line or a function of the library runs.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

AREAS: Final = (
    *("images", "names", "model_files", "checkpoints", "exports"),
    *("lists", "trees", "options", "environment", "library"),
)
IN, OUT = Path("in"), Path("out")
OK, SOME_FAILED, REFUSED = 0, 1, 2
LISTS: Final = ("predictions.csv", "predictions.jsonl")
PREDICT: Final = ("predict", "part.ead", "in", "--output", "out", "--no-heatmaps")


def nothing() -> None:
    """Prepare or check nothing."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A hostile input with its defined outcome."""

    area: str
    """One of `AREAS`."""
    name: str
    """Name within the area."""
    command: tuple[str, ...] = ()
    """Arguments of the command line."""
    call: Callable[[], Any] | None = None
    """Function that calls the library instead. An error of ours counts as code 2."""
    prepare: Callable[[], Any] = nothing
    """Function that writes the inputs."""
    codes: tuple[int, ...] = (REFUSED,)
    """Exit codes that are right."""
    words: str = ""
    """Part of the sentence on stderr."""
    makes: tuple[str, ...] = ()
    """Files and folders that may be new in `out`, and must be there unless refused."""
    leaves: tuple[str, ...] = ()
    """Files that are new in `out` after a refusal."""
    removes: tuple[str, ...] = ()
    """Files that stand in `out` before and not afterwards."""
    check: Callable[[], Any] = nothing
    """Further assertions, unless it is refused."""
    seconds: int = 20
    """Processor seconds that it may take."""
    mebibytes: int = 600
    """Memory that it may take beside the loaded program."""

    @property
    def id(self) -> str:
        """Area and name, with characters that every terminal can show."""
        return f"{self.area}/{ascii(self.name)[1:-1]}"


def write(path: Path | str, content: bytes | str = b"") -> Path:
    """Write a file and the folders that it needs."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


_LINKS: Final = {
    "device": "/dev/zero",
    "broken link": "gone",
    "link to itself": None,
}
_CONTENTS: Final = {
    "empty file": b"",
    "text": b"no such file",
    "page of HTML": b"<!DOCTYPE html><title>404</title>",
    "zip": b"PK\x05\x06" + bytes(18),
    "program": b"\x7fELF\x02\x01\x01" + bytes(57),
    "huge length": b"\xff" * 7 + b"\x7f{}",
    "pickle that would run code": b"cos\nsystem\n(S'touch out-ran'\ntR.",
}
SPECIAL: Final = ("folder", "pipe", *_LINKS, *_CONTENTS)
"""Kinds of what may stand in the place of a file."""


def special_file(kind: str, path: Path | str) -> None:
    """Make one of the kinds of `SPECIAL` at a path."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind in _LINKS:
        place.symlink_to(_LINKS[kind] or place.name)
    else:
        place.write_bytes(_CONTENTS[kind])


def special_cases(
    area: str,
    command: tuple[str, ...],
    path: Path,
    words: str,
    *,
    label: str,
    without: Collection[str] = (),
) -> Iterator[Case]:
    """Yield a case for each of `SPECIAL` at a path that a command reads."""
    for kind in SPECIAL:
        if kind not in without:
            yield Case(
                area=area,
                name=f"{label}: {kind}",
                prepare=partial(special_file, kind, path),
                command=command,
                words=words,
            )


def written_cases(
    area: str,
    command: tuple[str, ...],
    path: Path,
    texts: Mapping[str, tuple[str | bytes, str]],
    *,
    label: str,
) -> Iterator[Case]:
    """Yield a case for each text at a path that a command reads, and its words."""
    for name, (text, words) in texts.items():
        yield Case(
            area=area,
            name=f"{label}: {name}",
            prepare=partial(write, path, text),
            command=command,
            words=words,
        )
