"""The options of a verb: tyro makes them of the function's parameters, and reads them.

What is wrong with them is said in one sentence, as any other bad input is.
"""

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import partial, wraps
from itertools import groupby
from typing import Any, Final

from efficientad.errors import ConfigError

_COLORS: Final = re.compile(r"\x1b\[[0-9;]*m")
_CHOICES: Final = re.compile(r"(?<=Expected one of )\('.*'\)")
_BORDER: Final = 2
"""Signs before what the box holds."""
_NAMES_FROM: Final = 4
"""Blanks before the name of an option; its help has more."""
_CAUSES: Final = ("Unrecognized options", "Perhaps you meant")
_HELP: Final = frozenset({"-h", "--help"})
_UNLIMITED: Final = 100_000


def bound(
    verb: Callable[..., int], name: str, options: Sequence[str]
) -> Callable[[], int] | None:
    """Read the options of a verb, and give the call of it.

    Returns:
        None where only its help was asked for, which is printed.

    Raises:
        ConfigError: If they are not what the verb takes.
    """
    import tyro  # only where there are options to read

    @wraps(verb)
    def call(*arguments: Any, **named: Any) -> Callable[[], int]:
        return partial(verb, *arguments, **named)

    flat = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    told = io.StringIO()
    program = f"efficientad {name}"
    width = nullcontext() if _HELP & set(options) else _unlimited_width()
    try:
        with redirect_stderr(told), width:
            found: Callable[[], int] = tyro.cli(
                call, prog=program, args=options, config=flat
            )
    except SystemExit as request:
        if not request.code:
            return None
        raise ConfigError(
            f"{_sentence(told.getvalue())}; see {program} --help"
        ) from request
    return found


@contextmanager
def _unlimited_width() -> Iterator[None]:
    """Let nothing be cut at the end of a line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(_UNLIMITED)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _sentence(box: str) -> str:
    """Take what is wrong out of the box that tyro draws, of lines or of blanks."""
    _, *rows = _COLORS.sub("", box).strip("\n").splitlines() or [""]
    parts = [
        [row[_BORDER:].rstrip("│ ") for row in part]
        for is_rule, part in groupby(rows, _is_rule)
        if not is_rule
    ]
    kept = [
        _joined(part)
        for number, part in enumerate(parts)
        if number == 0 or part[0].startswith(_CAUSES)  # others hold general help
    ]
    return "; ".join(kept) or box.strip()


def _joined(rows: Sequence[str]) -> str:
    found = ""
    for row in rows:
        words = row.lstrip()
        n_blanks = len(row) - len(words)
        if n_blanks == _NAMES_FROM and not found.endswith(":"):
            found += f", {words}"
        elif n_blanks in {0, _NAMES_FROM}:
            found += f" {words}"
    found = found.strip()
    return _CHOICES.sub(_in_order, found[:1].lower() + found[1:]).rstrip(".")


def _is_rule(row: str) -> bool:
    return set(row) <= set("│╰╯─- ")


def _in_order(choices: re.Match[str]) -> str:
    """Sort choices, which come in another order each time."""
    return ", ".join(sorted(choices[0].strip("()").replace("'", "").split(", ")))
