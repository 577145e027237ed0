"""The scenarios below some folders: categories, told apart by their names."""

from collections.abc import Sequence
from pathlib import Path

from efficientad.datasets import Category, find_categories
from efficientad.errors import DatasetError


def find_scenarios(roots: Sequence[Path]) -> list[Category]:
    """Find all scenarios below folders, in the order of the folders.

    Args:
        roots: Categories, collections of them, or folders of collections; or lists.

    Raises:
        DatasetError: If a folder holds none, if one cannot be used, or if two have one
            name, which recorded runs could not tell apart.
    """
    scenarios = [category for root in roots for category in find_categories(root)]
    seen: dict[str, Category] = {}
    for scenario in scenarios:
        other = seen.setdefault(scenario.name, scenario)
        if other is not scenario:
            raise DatasetError(
                "scenarios need different names, since results are told apart by them: "
                f"{other.root} and {scenario.root} have the same; give one of them, or "
                "rename a folder"
            )
    return scenarios
