"""The options of a verb: tyro makes them of the function's parameters, and reads them.

What is wrong with them is said in one sentence, as any other bad input is.
"""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial, wraps
from typing import Any, Final

from efficientad.errors import ConfigError

_COLORS: Final = re.compile(r"\x1b\[[0-9;]*m")
_CHOICES: Final = re.compile(r"\('[^()]*'\)")
_BORDER: Final = 2
"""Signs before what the box holds."""
_NAMES_FROM: Final = 4
"""Blanks before the name of an option; its help has more."""


def bound(
    verb: Callable[..., int], name: str, options: Sequence[str]
) -> Callable[[], int]:
    """Read the options of a verb, and give the call of it.

    Raises:
        ConfigError: If they are not what the verb takes.
        SystemExit: After its help was printed.
    """
    import tyro  # only where there are options to read

    @wraps(verb)
    def call(*arguments: Any, **named: Any) -> Callable[[], int]:
        return partial(verb, *arguments, **named)

    flat = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    told = io.StringIO()
    program = f"efficientad {name}"
    try:
        with redirect_stderr(told):
            found: Callable[[], int] = tyro.cli(
                call, prog=program, args=options, config=flat
            )
    except SystemExit as request:
        if not request.code:
            raise
        raise ConfigError(
            f"{_sentence(told.getvalue())}; see {program} --help"
        ) from request
    return found


def _sentence(box: str) -> str:
    """Take what is wrong out of the box that tyro draws, of lines or of blanks."""
    _, *rows = _COLORS.sub("", box).strip("\n").splitlines() or [""]
    if rows and _is_rule(rows[0]):
        rows = rows[1:]
    found: list[str] = []
    for row in rows:
        if _is_rule(row):
            break  # what comes is general help, or the end
        content = row[_BORDER:].rstrip("│ ")
        words = content.lstrip()
        n_blanks = len(content) - len(words)
        if n_blanks == 0:
            found.append(words)
        elif n_blanks == _NAMES_FROM and found:
            found[-1] += " " + words if found[-1].endswith(":") else ", " + words
    told = " ".join(found) or box.strip()
    told = told[:1].lower() + told[1:]
    return _CHOICES.sub(_in_order, told).rstrip(".")


def _is_rule(row: str) -> bool:
    return set(row) <= set("│╰╯─- ")


def _in_order(choices: re.Match[str]) -> str:
    """Sort choices, which come in another order each time."""
    return ", ".join(sorted(choices[0].strip("()").replace("'", "").split(", ")))
