"""Names of files as they come out: on a terminal, in logs, in lists.

A name may hold a line break, an escape sequence that a terminal obeys, bytes that are
no text, or what a spreadsheet takes for a formula.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def printable(text: str) -> str:
    r"""Return a text on one line, with unprintable characters spelled out, as `\n`."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def as_text(value: Any) -> Any:
    r"""Return a JSON value without characters that UTF-8 cannot encode.

    They stand for bytes of a file name that are no text, and are spelled out: `\udce9`.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {as_text(k): as_text(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(item) for item in value]
    return value


def as_cell(value: Any) -> Any:
    """Return a value for a CSV file, where a path that looks like a formula gets `./`.

    A spreadsheet would compute the formula; the longer path leads to the same file.
    """
    is_formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f".{os.sep}{value}" if is_formula else value
