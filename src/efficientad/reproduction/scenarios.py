"""The scenarios below some folders: one category each, of one collection."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efficientad.datasets import Category, open_category
from efficientad.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Scenario:
    """A category and the collection it counts for."""

    collection: str
    """`mvtec_ad`, `mvtec_loco`, `visa`; other collections by their folder's name."""
    name: str
    category: Category


def find_scenarios(roots: Sequence[Path]) -> list[Scenario]:
    """Find all scenarios below folders, in the order of the folders.

    Args:
        roots: Categories, collections of them, or folders of collections.

    Raises:
        DatasetError: If a folder holds none, or if two scenarios have one name.
    """
    scenarios = [scenario for root in roots for scenario in _below(root)]
    seen: dict[str, Scenario] = {}
    for scenario in scenarios:
        other = seen.setdefault(scenario.name, scenario)
        if other is not scenario:
            raise DatasetError(
                "scenarios need different names, since results are told apart by them: "
                f"{other.category.root} and {scenario.category.root} have the same; "
                "give one of them, or rename a folder"
            )
    return scenarios


def _below(root: Path) -> list[Scenario]:
    folders = [root, *sorted(root.glob("*")), *sorted(root.glob("*/*"))]
    found = [
        Scenario(folder.resolve().parent.name, folder.resolve().name, open_category(folder))
        for folder in folders
        if (folder / "train").is_dir() and (folder / "test").is_dir()
    ]
    if not found:
        raise DatasetError(
            f"a folder with categories was needed, {root} holds none; give one with "
            "the folders train/good and test, or a folder of such"
        )
    return found
