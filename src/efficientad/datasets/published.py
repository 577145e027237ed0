"""The published collections, known by the names of their scenarios and defect types."""

from collections.abc import Set as AbstractSet
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
