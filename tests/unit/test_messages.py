"""What a message names exists: verbs, functions, options and extras."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import efficientad
from efficientad.cli import main as cli
from efficientad.cli.options import _names_of

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "efficientad"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

NAMED = {
    re.compile(r"`efficientad (\w+)"): {*cli._VERBS, *cli._LAB_VERBS},
    re.compile(r"\b(?:call|use|by) (?:efficientad\.)?(\w+)\("): {
        *efficientad.__all__,
    },
    re.compile(r"(?<![\w-])(--[a-z][a-z-]+)"): {
        "--help",
        *(name for verb in cli._VERBS.values() for name in _names_of(verb)),
        *(name.replace("--", "--no-") for name in _names_of(cli._VERBS["train"])),
    },
    re.compile(r"efficientad\[(\w+)\]"): set(PROJECT["optional-dependencies"]),
}


def messages(source: str) -> Iterator[str]:
    """Yield the texts of errors that are raised and of messages that are logged."""
    for node in ast.walk(ast.parse(source)):
        is_logged = isinstance(node, ast.Call) and "logger" in ast.unparse(node.func)
        if isinstance(node, ast.Raise) or is_logged:
            parts = [
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            yield " ".join(parts)


def unknown(text: str) -> list[str]:
    """List the names in a message that do not exist."""
    return [
        name
        for pattern, known in NAMED.items()
        for name in pattern.findall(text)
        if name not in known
    ]


def test_what_messages_name_exists():
    found = [
        (path.name, text)
        for path in PACKAGE.rglob("*.py")
        for text in messages(path.read_text(encoding="utf-8"))
    ]

    n_named = sum(len(p.findall(text)) for p in NAMED for _, text in found)
    assert n_named > 20
    assert not [(name, text) for name, text in found if unknown(text)]


@pytest.mark.parametrize(
    "text",
    [
        *("make it by `efficientad make`", "call calibrate_all(detector)"),
        *("give --sise medium", "run: pip install 'efficientad[everything]'"),
    ],
)
def test_a_name_that_does_not_exist_is_noticed(text):
    assert len(unknown(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("make it by `efficientad train`", "call calibrate(predictor, images)"),
        *("give --size medium", "run: pip install 'efficientad[onnx]'"),
    ],
)
def test_a_name_that_exists_is_accepted(text):
    assert not unknown(text)
