"""A sample, an image with what is known about it, and a category, one product.

Published collections are known by the names of their scenarios and defect types.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

Collection: TypeAlias = Literal["mvtec_ad", "visa", "mvtec_loco", "plain"]
"""The published collection that a category belongs to; `plain`: none of them."""

MVTEC_LOCO_DEFECTS: Final = ("logical_anomalies", "structural_anomalies")
"""The defect types of each scenario of MVTec LOCO."""

_MVTEC_AD: Final = {
    "bottle": "broken_large broken_small contamination",
    "cable": (
        "bent_wire cable_swap combined cut_inner_insulation cut_outer_insulation "
        "missing_cable missing_wire poke_insulation"
    ),
    "capsule": "crack faulty_imprint poke scratch squeeze",
    "carpet": "color cut hole metal_contamination thread",
    "grid": "bent broken glue metal_contamination thread",
    "hazelnut": "crack cut hole print",
    "leather": "color cut fold glue poke",
    "metal_nut": "bent color flip scratch",
    "pill": "color combined contamination crack faulty_imprint pill_type scratch",
    "screw": "manipulated_front scratch_head scratch_neck thread_side thread_top",
    "tile": "crack glue_strip gray_stroke oil rough",
    "toothbrush": "defective",
    "transistor": "bent_lead cut_lead damaged_case misplaced",
    "wood": "color combined hole liquid scratch",
    "zipper": (
        "broken_teeth combined fabric_border fabric_interior rough split_teeth "
        "squeezed_teeth"
    ),
}

_VISA: Final = (
    "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 "
    "pipe_fryum"
)

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


def published_collection(name: str, defect_types: AbstractSet[str]) -> Collection:
    """Return the collection of a category in MVTec AD's layout.

    Any product may be called screw, so the defect types must fit as well. VisA has
    `bad` alone after conversion.
    """
    if name in _VISA.split() and defect_types <= {"bad"}:
        return "visa"
    if name in _MVTEC_AD and defect_types <= set(_MVTEC_AD[name].split()):
        return "mvtec_ad"
    return "plain"
