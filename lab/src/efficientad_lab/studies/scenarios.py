"""The scenarios below some folders: categories, told apart by their names."""

from collections.abc import Sequence
from pathlib import Path

from efficientad.datasets import Category, find_categories
from efficientad.errors import DatasetError
from efficientad_lab.studies.records import name_in_files


def find_scenarios(roots: Sequence[Path]) -> list[Category]:
    """Find all scenarios below folders, in the order of the folders.

    Args:
        roots: Categories, collections of them, or folders of collections; or lists.

    Raises:
        DatasetError: If a folder holds none, if one cannot be used, or if two have one
            name, or names whose files would be the same.
    """
    if not roots:
        raise DatasetError(
            "needed a category or a folder of categories, got none; give at least one"
        )
    scenarios = [category for root in roots for category in find_categories(root)]
    seen: dict[str, Category] = {}
    for scenario in scenarios:
        other = seen.setdefault(name_in_files(scenario.name), scenario)
        if other is not scenario:
            raise DatasetError(
                "scenarios need different names, since results are told apart by them: "
                f"{other.root} and {scenario.root} have the same, or one that differs "
                "in case, spaces or signs only; give one of them, or rename a folder"
            )
    return scenarios
