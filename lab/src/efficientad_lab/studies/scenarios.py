"""The scenarios below some folders: categories of different names."""

from collections.abc import Sequence
from pathlib import Path

from efficientad.datasets import Category, open_category
from efficientad.datasets.layouts import find_category_folders
from efficientad.datasets.lists import is_list
from efficientad.errors import DatasetError
from efficientad.images.listing import describe_contents
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


def find_categories(root: Path, *, needs_test: bool = True) -> list[Category]:
    """Return all categories in a folder, at least one, in the order of their paths.

    Args:
        root: A category, a collection of them, or a folder of collections; or a CSV or
            JSON list, which is one category.
        needs_test: Whether categories without test images, which cannot be evaluated,
            are left out.

    Raises:
        DatasetError: If there is none, or if one of them cannot be used.
    """
    paths = [root] if is_list(root) else list(find_category_folders(root))
    found = [open_category(path, needs_test=False) for path in paths]
    usable = [category for category in found if category.test or not needs_test]
    if usable:
        return usable
    wanted = "a category with test images" if found else "a category"
    raise DatasetError(
        f"{wanted} was needed in {root}, which holds {describe_contents(root)}; give a "
        "folder laid out as MVTec AD, MVTec LOCO or VisA, or a CSV or JSON list"
    )
