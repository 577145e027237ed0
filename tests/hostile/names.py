"""Hostile names: results are whole, and nothing that is printed misleads."""

import csv
import html
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

from tests.hostile.case import IN, LISTS, OK, OUT, PREDICT, SOME_FAILED, Case, write

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
PICTURE_NAMES = tuple(n for n in NAMES if n[0] not in ".-" and len(n) < 200)[::6]


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
    assert Path(line["path"]).name == f"{spelled(name)}.png", line["path"]


def spelled(name: str) -> str:
    """Return a name as every text can hold it."""
    text = os.fsencode(name).decode("utf-8", "surrogateescape")
    return text.encode("utf-8", "backslashreplace").decode()


def check_part(name: str) -> None:
    """Assert that Parquet has the whole name."""
    from pyarrow import parquet

    (part,) = (OUT / "parts").iterdir()
    (row,) = parquet.read_table(part).to_pylist()
    assert row["path"] == f"in/{spelled(name)}.png"
    assert row["error"] is None
    check_terminal()


def put_into_manifest(name: str) -> None:
    """List a picture as other programs do, which escape few characters."""
    put("good.png", IN / f"{name}.png")
    entry = {"source-ref": f"{name}.png", "anomaly-label": 0}
    text = json.dumps(entry, ensure_ascii=spelled(name) != name)
    write(IN / "list.jsonl", text)


def check_manifest() -> None:
    """Assert that the picture was read."""
    os.lseek(1, 0, os.SEEK_SET)
    text = os.read(1, 2**20).decode()
    assert "list: 1 train, 0 validation, 0 test images" in text, text
    assert "unreadable" not in text
    assert "an image was needed" not in text
    check_terminal()


def put_into_category(name: str) -> None:
    """Add a kind of defects and a picture of a name to the sound category."""
    shutil.copytree("parts", IN / "parts")
    put("good.png", IN / "parts/test" / name / f"{name}.png")


def check_report(name: str) -> None:
    """Assert that report and metrics hold the name, escaped."""
    page = (OUT / "report.html").read_text(encoding="utf-8")
    assert spelled(name) in html.unescape(page)
    assert "<script>.png" not in page
    metrics = json.loads((OUT / "metrics.json").read_text(encoding="ascii"))
    assert f"test/{spelled(name)}/{spelled(name)}.png" in {
        image["name"] for image in metrics["images"]
    }
    check_terminal()


def check_terminal() -> None:
    """Assert that nothing printed can move the cursor or forge a line."""
    for stream in (1, 2):
        os.lseek(stream, 0, os.SEEK_SET)
        text = os.read(stream, 2**20).decode()
        assert not set(text) & set("\x1b\x07\x7f\r\x85\u2028\u202e"), text


def check_card() -> None:
    """Assert that the card is one of Markdown alone, with one heading."""
    os.lseek(1, 0, os.SEEK_SET)
    text = os.read(1, 2**20).decode()
    assert text.count("\n# ") + text.startswith("# ") == 1
    assert "<script>" not in text
    check_terminal()


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
    of_verb = {"threshold": check_terminal, "card": check_card}
    for name, (verb, check) in product(MODEL_NAMES, of_verb.items()):
        yield Case(
            area="names",
            name=f"{verb} of {name}",
            prepare=partial(put, "part.ead", IN / f"{name}.ead"),
            command=(verb, f"./in/{name}.ead"),
            codes=(OK,),
            check=check,
        )
    for name in PICTURE_NAMES:
        yield Case(
            area="names",
            name=f"row of Parquet for {name}",
            prepare=partial(put, "good.png", IN / f"{name}.png"),
            command=(*PREDICT[:3], "--output", "out/parts", "--format", "parquet"),
            codes=(OK,),
            makes=("parts",),
            check=partial(check_part, name),
        )
        yield Case(
            area="names",
            name=f"entry of a manifest for {name}",
            prepare=partial(put_into_manifest, name),
            command=("check", "in/list.jsonl"),
            codes=(SOME_FAILED,),
            check=check_manifest,
        )
        yield Case(
            area="names",
            name=f"report on {name}",
            prepare=partial(put_into_category, name),
            command=("evaluate", "part.ead", "in/parts", "--output", "out"),
            codes=(OK,),
            makes=("metrics.json", "report.html"),
            check=partial(check_report, name),
            seconds=60,
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
