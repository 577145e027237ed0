"""JSON in model files: plain values of few levels and digits, and the provenance."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from efficientad.errors import ConfigError

_MAX_DEPTH: Final = 50
_INTEGERS: Final = range(-(2**63), 2**64)
# Entries of a provenance that verbs read.
_TABLES: Final = ("config", "recipe", "teacher")
_IMAGES: Final = ("training_images", "validation_images", "decision_images")
_APPEARANCE: Final = "validation_appearance"
_COUNTS: Final = ("steps", "batch_size")
_PARTS_OF_A_LAYOUT: Final = {"good", "ok", "normal", "train", "training", "images"}


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


def read_provenance(entry: Any) -> dict[str, Any]:
    """Return the provenance of an entry, an unchecked JSON value.

    Raises:
        TypeError: If it or an entry that is read elsewhere is of another type.
    """
    provenance = _table(entry, "provenance")
    for name in _TABLES:
        _table(provenance.get(name, {}), name)
    for name in _IMAGES:
        hashes = _table(provenance.get(name, {}), name)
        if not all(isinstance(digest, str) for digest in hashes.values()):
            raise TypeError(f"{name} has a hash that is no text")
    for name, values in _table(provenance.get(_APPEARANCE, {}), _APPEARANCE).items():
        if not isinstance(values, list) or not all(map(is_number, values)):
            raise TypeError(f"{_APPEARANCE} has no list of numbers for {name}")
    recipe = provenance.get("recipe", {})
    for name in _COUNTS:
        if type(recipe.get(name, 0)) is not int:
            raise TypeError(f"{name} of the recipe is no whole number")
    return provenance


def product_of(provenance: Mapping[str, Any]) -> str:
    """Return the name of the folder that a model was trained on.

    Folders of a layout, such as `train/good`, do not count. Empty: unknown, as after a
    training on arrays.
    """
    folders = {Path(name).parent for name in provenance.get("training_images", {})}
    if not folders or not all(folder.is_absolute() for folder in folders):
        return ""
    place = Path(os.path.commonpath(folders))
    while place.name.lower() in _PARTS_OF_A_LAYOUT:
        place = place.parent
    return place.name


def training_of(provenance: Mapping[str, Any]) -> str:
    """Return what a model was trained on and when, as far as it is known."""
    product, n = product_of(provenance), len(provenance.get("training_images", {}))
    words = f"trained on {n} normal images" if n else "of unknown training images"
    words += f" of {product!r}" if product else ""
    made_on = provenance.get("made_on")
    return f"{words} on {made_on}" if made_on else words


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is no table")
    return value


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
