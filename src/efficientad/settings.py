"""Settings and arguments, checked when they are given and not hours later.

Each is compared with its annotation: the type, and the `Range` of a number. NumPy's
numbers become Python's, which every file can hold, and text becomes a path, or a path
text, where the other is needed. No torch here.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Number, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from efficientad.errors import ConfigError, path_error

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class Range(NamedTuple):
    """The numbers that a setting may have."""

    least: float
    greatest: float
    step: int = 1
    """Number of which a whole number must be a multiple."""

    def has(self, number: float) -> bool:
        """Return whether a number is one of these."""
        is_inside = self.least <= number <= self.greatest
        return is_inside and (self.step == 1 or number % self.step == 0)

    def __str__(self) -> str:
        steps = "" if self.step == 1 else f" in steps of {self.step}"
        return f"from {self.least} to {self.greatest}{steps}"


Steps = Annotated[int, Range(1, 10_000_000)]
"""Optimizer steps."""
BatchSize = Annotated[int, Range(1, 1024)]
"""Images of a step or of a prediction."""
Parallel = Annotated[int, Range(1, 1024)]
"""Threads, streams or processes."""
Seed = Annotated[int, Range(0, 2**64 - 1)]
"""Seed of random draws; PyTorch takes no larger one."""
Share = Annotated[float, Range(1e-6, 0.999999)]
"""Share of something that is neither none nor all of it."""
Budget = Annotated[float, Range(1e-6, 0.5)]
"""Share of normal images that may be flagged, at most half of them."""

_REFUSED: Final = object()
_NAMES: Final = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    Path: "a path",
    Sequence: "a list",
    tuple: "a list",
}
_LONGEST_BITS: Final = 64


def check_fields(settings: "DataclassInstance") -> None:
    """Check the fields of a frozen dataclass, and make their values plain, in place.

    Raises:
        ConfigError: If a value has another type or range than its field.
    """
    hints = _hints(type(settings))
    for name in (field.name for field in fields(settings)):
        value = checked(name, getattr(settings, name), hints[name])
        object.__setattr__(settings, name, value)


def checks_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with its arguments checked: it then raises `ConfigError`.

    For a path that is too long, or that the user may not enter, it raises
    `StorageError`.
    """
    parameters = signature(function)

    @wraps(function)
    def call(*positional: P.args, **named: P.kwargs) -> R:
        given = parameters.bind(*positional, **named)
        hints = _hints(function)
        for name, value in given.arguments.items():
            given.arguments[name] = checked(name, value, hints.get(name, Any))
        try:
            return function(*given.args, **given.kwargs)
        except OSError as error:
            found = path_error(error)
            if found is None:
                raise
            raise found from error

    return call


def explains_freezing(advice: str) -> Callable[[type[C]], type[C]]:
    """Return a decorator of a frozen dataclass: setting a field names what to call."""

    def decorated(frozen: type[C]) -> type[C]:
        def refuse(_self: C, name: str, _value: object) -> None:
            raise ConfigError(
                f"a {frozen.__name__} does not change, got a new {name}; {advice}"
            )

        frozen.__setattr__ = refuse  # type: ignore[assignment, method-assign]
        return frozen

    return decorated


def checked(name: str, value: object, kind: Any) -> Any:
    """Return a value as its annotation has it.

    In lists, numbers and paths are checked one by one; images are left to their reader,
    since they may be read when the list is asked for one.

    Raises:
        ConfigError: If the value has another type, or is outside its range.
    """
    found = _converted(name, value, kind)
    if found is _REFUSED:
        raise ConfigError(f"{name} must be {_wanted(kind)}, got {shown(value)}")
    return found


def shown(value: object) -> str:
    """Return a value for a message, short whatever it is."""
    shape = getattr(value, "shape", ())
    if shape:
        return f"an array of shape {tuple(shape)}"
    if isinstance(value, int) and value.bit_length() > _LONGEST_BITS:
        return f"one of {value.bit_length()} bits"
    if value is None or isinstance(value, (Number, str, Path)):
        return repr(value) if isinstance(value, str) else str(value)
    return _with_article(type(value))


@cache
def _hints(annotated: Any) -> dict[str, Any]:
    return get_type_hints(annotated, include_extras=True)


def _converted(name: str, value: Any, kind: Any) -> Any:  # noqa: PLR0911
    """Return a value as its annotation has it, or `_REFUSED`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found = _converted(name, value, inner[0])
        return found if found is not _REFUSED and inner[1].has(found) else _REFUSED
    if origin in {Union, UnionType}:
        found = (_converted(name, value, each) for each in _members(kind))
        return next((each for each in found if each is not _REFUSED), _REFUSED)
    if origin is Literal:
        is_plain = isinstance(value, (str, Integral))  # an array compares each value
        return next((c for c in inner if is_plain and c == value), _REFUSED)
    if origin in {Sequence, tuple, Iterable}:
        return _converted_list(name, value, origin, inner[0])
    if kind is Any:
        return value
    plain = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}
    if kind in plain:
        return plain[kind](value)
    return value if isinstance(value, origin or kind) else _REFUSED


def _converted_list(name: str, value: Any, origin: Any, element: Any) -> Any:
    is_list = isinstance(value, list if origin is tuple else origin)
    is_list |= isinstance(value, tuple)
    if not is_list or isinstance(value, (str, bytes)) or hasattr(value, "shape"):
        return _REFUSED
    if origin is not tuple and not set(_members(element)) <= {str, Path}:
        return value
    return tuple(checked(f"{name}[{i}]", each, element) for i, each in enumerate(value))


def _members(kind: Any) -> list[Any]:
    """Return the types of a union, or the only type; where a path may be, no text."""
    is_union = get_origin(kind) in {Union, UnionType}
    members = get_args(kind) if is_union else (kind,)
    return [each for each in members if not (each is str and Path in members)]


def _bool(value: object) -> object:
    # NumPy's bool has the same name. This module loads no NumPy.
    return bool(value) if type(value).__name__ == "bool" else _REFUSED


def _int(value: Any) -> object:
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    return int(value) if is_whole else _REFUSED


def _float(value: object) -> object:
    if not isinstance(value, Real) or isinstance(value, bool):
        return _REFUSED
    try:
        number = float(value)
    except OverflowError:
        return _REFUSED
    return number if math.isfinite(number) else _REFUSED


def _str(value: object) -> object:
    return str(value) if isinstance(value, (str, Path)) else _REFUSED


def _path(value: object) -> object:
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    is_path = isinstance(text, str) and text and "\0" not in text
    if not is_path:
        return _REFUSED
    return value if isinstance(value, Path) else Path(text)


def _wanted(kind: Any) -> str:
    """Return what a value of a type is, for a message."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{_wanted(inner[0])} {inner[1]}"
    if origin is Literal:
        return _joined([str(choice) for choice in inner])
    if origin in {Union, UnionType}:
        return _joined([_wanted(e) for e in _members(kind) if e is not NoneType])
    return _NAMES.get(origin or kind) or _with_article(origin or kind)


def _joined(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _with_article(kind: type) -> str:
    name = kind.__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
