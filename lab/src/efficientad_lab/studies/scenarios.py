"""The scenarios below some folders: categories of different names."""

from collections.abc import Sequence
from pathlib import Path

from efficientad.datasets import Category, find_categories
from efficientad.errors import DatasetError
from efficientad_lab.studies.records import name_in_files


def find_scenarios(roots: Sequence[Path]) -> list[Category]:
    """Return all scenarios below folders, in the order of the folders.

    Raises:
        DatasetError: If a folder has no scenario, if one cannot be used, or if two
            would have the same files of results.
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
                "scenarios need different names, because results are told apart by "
                f"them: {other.root} and {scenario.root} have the same, or one that "
                "differs in case, spaces or signs only; give one of them, or rename a "
                "folder"
            )
    return scenarios
