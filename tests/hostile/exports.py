"""Hostile exports and outputs of exports: refused before anything is written."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.case import IN, OUT, SPECIAL, Case, nothing, special_file, write
from tests.hostile.model_files import cut, flipped, zeroed

FORMATS = {"part.onnx": ("part.onnx",), "part.xml": ("part.xml", "part.bin")}
EXPORT = ("export", "part.ead", "--output")
ENTITY = (
    '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    '<net name="&x;" version="11"></net>'
)
LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaaaaaaaaaaaaaa">'
    + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 16}">' for i in range(1, 12))
    + ']><net name="&a11;"></net>'
).replace("&a0;", "&a;")


def other_part(file: str, damage: Callable[..., Any], *given: Any) -> None:
    """Copy an export, one of whose files is damaged."""
    for name in FORMATS["part.onnx" if file.endswith("onnx") else "part.xml"]:
        shutil.copy(name, IN / name)
    damage(file, IN / file, *given)


def removed(file: str, target: Path) -> None:
    """Remove a file of an export."""
    assert file == target.name
    target.unlink()


def replaced_by(_file: str, target: Path, kind: str) -> None:
    """Put something special in the place of a file."""
    target.unlink()
    special_file(kind, target)


def replaced(_file: str, target: Path, text: str) -> None:
    """Replace a file of an export by a text."""
    write(target, text)


def edited(_file: str, target: Path, old: str, new: str) -> None:
    """Replace a text in a file of an export by one of the same length."""
    data = target.read_bytes()
    assert old.encode() in data
    write(target, data.replace(old.encode(), new.encode().ljust(len(old.encode()))))


def opened(name: str, model: str, prepare: Callable[[], Any]) -> Case:
    """Return a case of an export that cannot be opened."""
    return Case(
        area="exports",
        name=f"{model}: {name}",
        prepare=prepare,
        command=("predict", f"in/{model}", "good.png", "--output", "out"),
        words="part.",
    )


def made(name: str, *options: str, prepare: Callable[[], Any] = nothing) -> Case:
    """Return a case of an export that is refused."""
    return Case(
        area="exports",
        name=f"export {name}",
        prepare=prepare,
        command=("export", "part.ead", *options),
    )


def cases() -> Iterator[Case]:
    """Yield all cases of exports."""
    yield opened("missing", "part.onnx", nothing)
    for model, files in FORMATS.items():
        for kind in SPECIAL:
            yield opened(kind, model, partial(special_file, kind, IN / model))
        for file in files:
            damage = partial(other_part, file)
            for place in (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
                prepare = partial(damage, flipped, place)
                yield opened(f"a flipped bit of {file} at {place}", model, prepare)
            for share in (0.001, 0.1, 0.5, 0.99):
                prepare = partial(damage, cut, share)
                yield opened(f"{file} cut to {share}", model, prepare)
            for share in (0.0, 0.5, 1.0):
                prepare = partial(damage, zeroed, share)
                yield opened(f"a zeroed sector of {file} at {share}", model, prepare)
            prepare = partial(damage, removed)
            yield opened(f"without {file}", model, prepare)
            for kind in SPECIAL if file != model else ():
                prepare = partial(damage, replaced_by, kind)
                yield opened(f"{kind} for {file}", model, prepare)
    for name, text in (("an outer entity", ENTITY), ("a billion laughs", LAUGHS)):
        prepare = partial(other_part, "part.xml", replaced, text)
        yield opened(name, "part.xml", prepare)
    yield from outputs()


def outputs() -> Iterator[Case]:
    """Yield the cases of outputs that cannot be written."""
    for name in ("part", "part.ead", "part.ONNX", "part.bin", ".onnx", "part.onnx.gz"):
        yield made(f"to {name}", "--output", f"out/{name}")
    for kind in ("folder", "pipe", "device"):
        prepare = partial(special_file, kind, OUT / "part.onnx")
        yield made(f"to a {kind}", "--output", "out/part.onnx", prepare=prepare)
    yield made("to a folder that is a file", "--output", "good.png/part.onnx")
    for option, values in {
        "--precision": ("int4", "", "FP32"),
        "--max-loss": ("-1", "nan", "inf", "text", "1000"),
        "--images": ("gone", "good.png", "in"),
        "--verify": ("gone", "good.png", "in", "normal"),
    }.items():
        for value in values:
            given = ("--output", "out/part.onnx", option, value)
            yield made(f"with {option} {value!r}", *given)


CASES = tuple(cases())
