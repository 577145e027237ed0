"""The provenance in model files: a JSON object with some entries that verbs read."""

from typing import Any, Final

_TABLES: Final = ("config", "recipe", "teacher")
_IMAGES: Final = ("training_images", "validation_images", "decision_images")
_APPEARANCE: Final = "validation_appearance"
_COUNTS: Final = ("steps", "batch_size")


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


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is no table")
    return value
