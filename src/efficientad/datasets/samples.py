"""A sample, an image with what is known about it, and a category, one product."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from efficientad.datasets.published import Collection

Split: TypeAlias = Literal["train", "validation", "test"]

NORMAL: Final = "good"
"""Defect type of images without a defect, and the usual name of their folder."""

BLACK: Final = (0, 0, 0)
"""Usual color of a mask where there is no defect."""

_NORMAL_NAMES: Final = frozenset({NORMAL, "ok", "normal"})


def is_normal_name(name: str) -> bool:
    """Return whether a folder or defect type of this name has no defects."""
    return name.lower() in _NORMAL_NAMES


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and what is known about it."""

    path: Path
    defect_type: str
    """Name of its folder; `good` without a defect."""

    mask_path: Path | None = None
    """A file, or a folder of several masks. None: normal, or not annotated."""

    background: tuple[int, int, int] = BLACK
    """Color of the mask where there is no defect."""

    @property
    def is_defect(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect_type != NORMAL


@dataclass(frozen=True, slots=True)
class Category:
    """The images of one product, called a scenario in a published collection."""

    name: str
    root: Path
    """The folder that was opened, or the folder of the list."""
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    """Normal images first, then by defect type."""
    collection: Collection = "plain"
    defects_config: Path | None = None
    """MVTec LOCO's file with the saturation area of each mask value. None: masks have
    no values, and each connected group of their pixels is one defect."""
    unused: str = ""
    """Sentence on the files of the folder that are not used; empty if there are none,
    or if a list chose the images."""

    @property
    def splits(self) -> dict[Split, tuple[Sample, ...]]:
        """The samples by the name of their split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def name_of(self, path: Path) -> str:
        """Return a path relative to the category; the whole path if it is outside."""
        is_inside = path.is_relative_to(self.root)
        return str(path.relative_to(self.root) if is_inside else path)
