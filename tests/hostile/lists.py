"""Hostile lists of images: the sentence names the list, the place and the remedy."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.dataset_files import LIST, write_list
from tests.hostile.case import (
    IN,
    OK,
    SOME_FAILED,
    Case,
    special_cases,
    write,
    written_cases,
)

HEAD = "image,split,defect_type,mask\n"
CSV_TEXTS: dict[str, str | bytes] = {
    "no text": "",
    "a heading alone": HEAD,
    "blank lines": "\n\n\n",
    "other headings": "file,set,label\na.png,train,good\n",
    "one heading missing": "image,split\na.png,train\n",
    "pipes between columns": "image|split|defect_type\na.png|train|good\n",
    "a short row": HEAD + "a.png,train\n",
    "an empty image": HEAD + ",train,good,\n",
    "an unknown split": HEAD + "normal/000.png,Training,good,\n",
    "a defect to train on": HEAD + "normal/000.png,train,scratch,\n",
    "an image twice": HEAD + "normal/000.png,train,good,\n" * 2,
    "an open quote": HEAD + '"a.png,train,good,\n',
    "a quote in the middle": HEAD + '"a"b.png,train,good,\n',
    "null characters": HEAD + "a\0b.png,train,good,\n",
    "UTF-16": (HEAD + "a.png,train,good,\n").encode("utf-16"),
    "Latin-1": (HEAD + "Größe.png,train,good,\n").encode("latin-1"),
    "random bytes": bytes(range(256)) * 20,
    "a field of a megabyte": HEAD + "a" * 2**20 + ",train,good,\n",
    "a row of a million commas": HEAD + "," * 10**6 + "\n",
    "a path of 5000 letters": HEAD + "a" * 5000 + ",train,good,\n",
    "a missing image": HEAD + "gone.png,train,good,\n",
    "a folder for an image": HEAD + "shots,train,good,\n",
    "a device for an image": HEAD + "/dev/zero,train,good,\n",
    "a path of a home": HEAD + "~/a.png,train,good,\n",
    "a Windows path": HEAD + "C:\\shots\\a.png,train,good,\n",
    "an escape sequence": HEAD + "a\x1b[2Jb.png,train,good,\n",
}
"""What stands in a CSV file. Of those that are lists, `check` lists the findings."""

READ = {
    "null characters": True,
    "an image twice": False,
    "a path of 5000 letters": True,
    "a missing image": True,
    "a folder for an image": True,
    "a device for an image": True,
    "a path of a home": True,
    "a Windows path": True,
    "an escape sequence": True,
}

NO_TEXTS: tuple[Any, ...] = (3, [], {}, True, 1e308)
ROW = {"image": "normal/000.png", "split": "train", "defect_type": "good"}
JSON_VALUES: dict[str, Any] = {
    "a table": {"images": [ROW]},
    "a number": 3,
    "null": None,
    "a text": "image",
    "a list of texts": ["a.png"],
    "an empty list": [],
    "an empty row": [{}],
    "an image twice": [ROW, ROW],
    **{
        f"{value!r} for {name}": [{**ROW, name: value}]
        for name in ("image", "split", "defect_type", "mask")
        for value in NO_TEXTS
    },
    "null for an image": [{**ROW, "image": None}],
    "an empty split": [{**ROW, "split": ""}],
}
JSON_TEXTS: dict[str, str | bytes] = {
    "no text": "",
    "a cut list": '[{"image": ',
    "nested lists": "[" * 100_000,
    "whole nested lists": "[" * 900 + "]" * 900,
    "a number of 5000 digits": "[1" + "0" * 5000 + "]",
    "two lists": "[] []",
    "a comment": "[] // none",
    "Latin-1": '[{"image": "Größe"}]'.encode("latin-1"),
    "a byte order mark": b"\xef\xbb\xbf[]",
}


def checked(name: str, file: str, content: str | bytes, *, is_list: bool) -> Case:
    """Return a case of a list that is checked."""
    return Case(
        area="lists",
        name=f"{file}: {name}",
        prepare=partial(write, IN / file, content),
        command=("check", f"in/{file}"),
        codes=(SOME_FAILED,) if is_list else (2,),
        words="" if is_list else file,
        mebibytes=200,
    )


def with_row(changes: dict[str, str]) -> None:
    """Write a sound list with another last row."""
    write_list(IN / "list.csv", [*LIST[:-1], {**LIST[-1], **changes}])


TABLES = {
    "nested lists": '{"polygons": ' + "[" * 100_000,
    "a number of 400 digits": '{"unit": "shares", "polygons": [[[1'
    + "0" * 399
    + "]]]}",
    "100 000 corners": json.dumps({"unit": "shares", "polygons": [[[0, 0]] * 100_000]}),
    "a list": "[]",
    "nothing": "",
}
"""What stands in a JSON file of polygons or of metrics."""


def table_cases() -> Iterator[Case]:
    """Yield regions of interest and metrics that are refused."""
    path = IN / "table.json"
    region = ("threshold", "part.ead", "--images", "normal", "--region", str(path))
    for command in (
        (*region, "--output", "out/new.ead"),
        ("card", "part.ead", "--metrics", str(path)),
    ):
        verb = command[0]
        yield from special_cases("lists", command, path, str(path), label=verb)
        texts = {name: (text, str(path)) for name, text in TABLES.items()}
        yield from written_cases("lists", command, path, texts, label=verb)


def cases() -> Iterator[Case]:
    """Yield all cases of lists."""
    for name, content in CSV_TEXTS.items():
        yield checked(name, "list.csv", content, is_list=READ.get(name, False))
    for name, value in JSON_VALUES.items():
        yield checked(name, "list.json", json.dumps(value), is_list=False)
    for name, text in JSON_TEXTS.items():
        yield checked(name, "list.json", text, is_list=False)
    for file in ("list.csv", "list.json"):
        yield from special_cases(
            "lists",
            ("check", f"in/{file}"),
            IN / file,
            file,
            label=file,
            without={"empty file", "text"},
        )
    for value in ("gone.png", "/dev/zero", "list.csv", "../list.csv"):
        yield Case(
            area="lists",
            name=f"a mask that is {value}",
            prepare=partial(with_row, {"mask": value}),
            command=("check", "in/list.csv"),
            codes=(SOME_FAILED,),
        )
    for name, delimiter in (("semicolons", ";"), ("tabs", "\t")):
        yield Case(
            area="lists",
            name=f"{name} and a byte order mark",
            prepare=partial(spreadsheet, delimiter),
            command=("check", "in/list.csv"),
            codes=(OK, SOME_FAILED),
        )
    yield from table_cases()


def spreadsheet(delimiter: str) -> None:
    """Write a sound list as a spreadsheet program does."""
    path = write_list(IN / "list.csv")
    text = path.read_text().replace(",", delimiter)
    write(path, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())


CASES = tuple(cases())
