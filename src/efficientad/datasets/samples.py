"""What a data set is made of: samples, their masks, and the category they belong to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

Collection: TypeAlias = Literal["mvtec_ad", "visa", "mvtec_loco", "plain"]
"""The published collection a category belongs to; `plain`: none of them."""

Split: TypeAlias = Literal["train", "validation", "test"]

NORMAL: Final = "good"
"""The defect type of images without a defect, and the name of their folder."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and what is known about it."""

    path: Path
    defect_type: str
    """Name of its folder; `good` where there is no defect."""

    mask_path: Path | None = None
    """A file, or a folder of several masks. None: normal, or nobody annotated it."""

    @property
    def is_defect(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect_type != NORMAL


@dataclass(frozen=True, slots=True)
class Category:
    """One product and its images: a scenario, where it is part of a collection."""

    name: str
    root: Path
    """The folder that was opened, or that the list lies in."""
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    """Normal ones first, then by defect type."""
    collection: Collection = "plain"
    defects_config: Path | None = None
    """MVTec LOCO's `defects_config.json`: the saturation area of each mask value. None:
    masks have no values, each connected group of their pixels is one defect."""

    @property
    def splits(self) -> dict[Split, tuple[Sample, ...]]:
        """The samples by the name of their split."""
        return {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }

    def name_of(self, sample: Sample) -> str:
        """Give a sample's path within the category, or its whole path if it is not."""
        if sample.path.is_relative_to(self.root):
            return str(sample.path.relative_to(self.root))
        return str(sample.path)
