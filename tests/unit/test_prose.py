"""Docstrings, messages and documents are plain English, as far as a test can tell."""

import ast
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = (REPOSITORY / "src", REPOSITORY / "lab" / "src")
TEXTS = ("src", "lab", "docs", "examples", "tests", "*.md", "Makefile", "*.toml")
SUFFIXES = {".py", ".md", ".cpp", ".h", ".c", ".html", ".css", ".toml", ".txt", ".sh"}

ARGUMENT = re.compile(r" {4}\*{0,2}(?P<name>\w+)(?: \(.*?\))?: (?P<text>.*)")
INVERTED = re.compile(r"(Of|What|Where|Likewise)\b")
TELLING = re.compile(r"(Give|Tell|Say|Let)s?\b")
DIALECT = re.compile(
    r"judg|contender|surroundings|(?<![a-z])(twins?|sooner)(?![a-z])", re.IGNORECASE
)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring, also of attributes."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text)), lineno=line):
                yield line, cleandoc(text)


def arguments(docstring: str) -> Iterator[tuple[str, str]]:
    """Yield name and first line of every argument of a docstring."""
    _, _, section = docstring.partition("Args:\n")
    for line in section.splitlines():
        if line and not line.startswith(" "):
            return
        if found := ARGUMENT.fullmatch(line):
            yield found["name"], found["text"]


def faults(source: str) -> list[str]:
    """List what is wrong with the docstrings of a module."""
    found = []
    for line, text in docstrings(source):
        if TELLING.match(text) or INVERTED.match(text):
            found.append(f"{line}: {text.partition(chr(10))[0]}")
        found += [
            f"{line}: {name}: {first}"
            for name, first in arguments(text)
            if INVERTED.match(first)
        ]
    return found


def dialect(text: str) -> list[str]:
    """List the lines with words that only this project would use."""
    return [
        f"{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if DIALECT.search(line)
    ]


def texts() -> list[Path]:
    """Return the files that people read, but recorded runs and this one."""
    roots = [path for pattern in TEXTS for path in REPOSITORY.glob(pattern)]
    files = [
        path
        for root in roots
        for path in ([root] if root.is_file() else sorted(root.rglob("*")))
        if path.suffix in SUFFIXES or path.name == "Makefile"
    ]
    return [
        path
        for path in files
        if "results" not in path.parts and path != Path(__file__).resolve()
    ]


def test_docstrings_begin_with_what_is_returned_or_done():
    found = {
        str(path.relative_to(REPOSITORY)): faults(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in package.rglob("*.py")
    }

    assert len(found) > 100
    assert not {name: lines for name, lines in found.items() if lines}


def test_words_are_those_of_the_field():
    found = {
        str(path.relative_to(REPOSITORY)): dialect(path.read_text(encoding="utf-8"))
        for path in texts()
    }

    assert {"README.md", "Makefile", "docs/method.md"} <= found.keys()
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    ("docstring", "n_faults"),
    [
        ("Return the map.\n\n    Args:\n        path: File to read.\n", 0),
        ("Return the map.\n\n    Args:\n        path: Whether to read.\n", 0),
        ("Return the map.\n\n    Args:\n        path: Of the file.\n", 1),
        ("Return the map.\n\n    Args:\n        a: A.\n        b: Where it is.\n", 1),
        ("Return the map.\n\n    Args:\n        path: A file.\n            What.\n", 0),
        ("Return it.\n\n    Args:\n        **more: Likewise.\n\n    Raises:\n", 1),
        ("Return it.\n\n    Raises:\n        Error: Where it fails.\n", 0),
        ("Give the map.", 1),
        ("Tells the threshold.", 1),
        ("Say it.", 1),
        ("Let it be.", 1),
        ("What a file holds.", 1),
        ("Sayings of the wise.", 0),
    ],
)
def test_a_docstring_of_the_other_kind_is_noticed(docstring, n_faults):
    function = f'def read(path):\n    """{docstring}"""\n'
    attribute = f'class File:\n    path: str\n    """{docstring}"""\n'

    assert len(faults(function)) == n_faults
    assert len(faults(attribute)) == n_faults


@pytest.mark.parametrize(
    "line",
    [
        *("judge(image)", "n_judged = 1", "class Judging:", "It judges a Contender"),
        *("a twin", "_TWINS", "the surroundings", "done sooner"),
    ],
)
def test_a_word_of_a_dialect_is_noticed(line):
    assert dialect(f"first\n{line}\n") == [f"2: {line}"]


@pytest.mark.parametrize("line", ["between", "entwine", "the surrounding pixels"])
def test_other_words_are_allowed(line):
    assert not dialect(line)
