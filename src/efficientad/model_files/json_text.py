"""JSON in the files of this package: plain values, and few enough levels and digits."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from efficientad.errors import ConfigError

_MAX_DEPTH: Final = 50
_INTEGERS: Final = range(-(2**63), 2**64)


def to_json(content: Mapping[str, Any]) -> str:
    """Return a JSON object. NumPy's numbers and arrays, and paths, become plain ones.

    Raises:
        ConfigError: If it holds values of other types, or a number that `from_json`
            would refuse.
    """
    try:
        text = json.dumps(content, default=_plain)
        from_json(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            "what a model file says of itself must be JSON: text, finite numbers, "
            f"lists and tables; got another value ({error}); leave it out"
        ) from error
    return text


def from_json(text: str | bytes) -> dict[str, Any]:
    """Return the object of a JSON text.

    Raises:
        ValueError: If it is no JSON or no object, is nested more than 50 deep, or has a
            number that is not finite or an integer of more than 64 bits.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(content, dict):
        name = type(content).__name__
        raise ValueError(f"needed a table, got {name}")  # noqa: TRY004 - bad text
    _require_bounds(content, _MAX_DEPTH)
    return content


def _require_bounds(value: Any, depth: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")
    if isinstance(value, int) and value not in _INTEGERS:
        raise ValueError("an integer has more than 64 bits")
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError("nested too deep")
        for item in value.values() if isinstance(value, dict) else value:
            _require_bounds(item, depth - 1)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a value of type {type(value).__name__}")
