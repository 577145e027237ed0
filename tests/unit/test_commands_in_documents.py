"""Each command line and each piece of Python in the documents is taken as it stands."""

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from efficientad.cli.main import _function_of
from efficientad.cli.options import call_of
from efficientad.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
PATTERNS = ("*.md", "docs/**/*.md", "lab/**/*.md", "examples/**/*.md")
DOCUMENTS = sorted(
    path.relative_to(REPOSITORY) for each in PATTERNS for path in REPOSITORY.glob(each)
)


def commands_of(text):
    """Return the lines of blocks that call `efficientad`, without their comments."""
    fences = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^ {4}.*$", text, re.MULTILINE)
    joined = "\n".join([*fences, *indented]).replace("\\\n", " ")
    lines = re.findall(
        r"^ *(?:\.venv/bin/)?efficientad ([a-z]+ .+)$", joined, re.MULTILINE
    )
    # The three dots of "SOURCE ..." stand for more of the same.
    return [
        [word for word in shlex.split(line, comments=True) if word != "..."]
        for line in (re.sub(r"[>|&].*", "", line) for line in lines)
    ]


def require_taken(words):
    verb, *options = words
    assert call_of(_function_of(verb), verb, options) is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_command_lines_are_taken(document):
    for words in commands_of((REPOSITORY / document).read_text(encoding="utf-8")):
        require_taken(words)


def inline_commands_of(text):
    """Return commands in the lines of a text; they may leave out what they work on."""
    found = re.findall(r"`efficientad ([a-z]+ [^`]*--[^`]+)`", text)
    return [shlex.split(command) for command in found]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_options_within_the_text_are_known(document):
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    for verb, *options in inline_commands_of(text):
        try:
            call_of(_function_of(verb), verb, options)
        except ConfigError as error:
            assert "unrecognized" not in str(error), (verb, options)  # noqa: PT017


def python_of(text):
    """Return the Python in the fenced blocks of a document."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def names_in(source):
    """Yield module and name of what a source takes from this package and the lab."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, each.name) for each in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_names_in_python_are_there(document):
    for source in python_of((REPOSITORY / document).read_text(encoding="utf-8")):
        for module, name in names_in(source):
            if module.partition(".")[0] in {"efficientad", "efficientad_lab"}:
                assert hasattr(import_module(module), name), f"{module}.{name}"


def test_a_stale_command_and_a_stale_name_are_noticed():
    """The positive control."""
    (words,) = commands_of("text\n\n    efficientad train parts --no-such-option 3\n")
    with pytest.raises(ConfigError, match="unrecognized options: --no-such-option"):
        require_taken(words)
    (source,) = python_of("```python\nimport efficientad\nefficientad.teach(1)\n```\n")
    assert list(names_in(source)) == [("efficientad", "teach")]
