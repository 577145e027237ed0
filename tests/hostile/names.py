"""Hostile names: results are whole, and nothing that is printed misleads."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.hostile.case import IN, LISTS, OK, OUT, PREDICT, Case

NAMES = (
    *("two words", "it's", 'a "quote"', "a\nline", "a\ttab", "a\rreturn", "a\x1b[2Jb"),
    *("a\x1b]0;title\x07", "a\x7f", "a\x85b", "a\u2028b", "a\u202egnp", "a\u200bb"),
    *("Größe", "Gro\u0308ße", "部品", "деталь", "حزء", "🔩", "a\udce9", "\udcff\udcfe"),
    *("=1+1", "+1", "-1", "@sum", "--output", "-h", "~", "$HOME", "%s", "%(path)s"),
    *("{0}", "*", "?", "[a]", "a;b", "a|b", "a&b", "a,b", "`id`", "$(id)", "#a"),
    *("CON", "nul", "a.", "..a", "a..", "a.tar", "<script>", "&lt;", "\\", "a:b"),
    *("x" * 200, "x" * 250, "部" * 80, " a", "a ", "a.png", "predictions", "heatmaps"),
)
"""Names of pictures, without `.png`."""

MODEL_NAMES = tuple(name for name in NAMES if len(os.fsencode(name)) < 240)[::2]
FOLDER_NAMES = tuple(name for name in NAMES if len(os.fsencode(name)) < 256)[1::2]


def put(source: str, place: Path) -> None:
    """Copy a file to a hostile path."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)


def check_row(name: str) -> None:
    """Assert that both lists have one row, whose text every program can show."""
    with (OUT / "predictions.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert not row["error"]
    assert row["path"][0] not in "=+-@"
    line = json.loads((OUT / "predictions.jsonl").read_text(encoding="ascii"))
    spelled = os.fsencode(name).decode("utf-8", "surrogateescape")
    plain = spelled.encode("utf-8", "backslashreplace").decode()
    assert Path(line["path"]).name == f"{plain}.png", line["path"]


def check_terminal() -> None:
    """Assert that nothing printed can move the cursor or forge a line."""
    for stream in (1, 2):
        os.lseek(stream, 0, os.SEEK_SET)
        text = os.read(stream, 2**20).decode()
        assert not set(text) & set("\x1b\x07\x7f\r\x85\u2028\u202e"), text


def check_all(name: str) -> None:
    """Assert both."""
    check_row(name)
    check_terminal()


def cases() -> Iterator[Case]:
    """Yield each name for a picture, a model file and a folder of results."""
    for name in NAMES:
        if name.startswith("."):
            continue  # a hidden file
        yield Case(
            area="names",
            name=f"picture {name}",
            prepare=partial(put, "good.png", IN / f"{name}.png"),
            command=(*PREDICT[:5], "--maps"),
            codes=(OK,),
            makes=(*LISTS, "heatmaps", "maps"),
            check=partial(check_all, name),
        )
    for name in MODEL_NAMES:
        yield Case(
            area="names",
            name=f"model {name}",
            prepare=partial(put, "part.ead", IN / f"{name}.ead"),
            command=("threshold", f"./in/{name}.ead"),
            codes=(OK,),
            check=check_terminal,
        )
    for name in FOLDER_NAMES:
        yield Case(
            area="names",
            name=f"results {name}",
            prepare=partial(put, "good.png", IN / "a.png"),
            command=("predict", "part.ead", "in", "--output", f"out/{name}"),
            codes=(OK,),
            makes=(name,),
            check=check_terminal,
        )
    for name, words in (("x" * 256, "too long"), ("x/" * 2100, "too long"), ("\0", "")):
        for option, command in {
            "image": ("predict", "part.ead", name, "--output", "out"),
            "model": ("threshold", f"{name}.ead"),
            "output": ("predict", "part.ead", "good.png", "--output", name),
        }.items():
            yield Case(
                area="names",
                name=f"{option} of {len(name)} bytes",
                command=command,
                words=words,
            )


CASES = tuple(cases())
