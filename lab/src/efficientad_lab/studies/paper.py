"""Numbers that the paper reports; percent unless stated otherwise.

EfficientAD (arXiv 2303.14535), Tables 1 to 5 and the timing of its supplement. The
numbers by category are those of the public reference reimplementation (nelson1425),
size small, with a teacher distilled on ImageNet.
"""

from typing import Final, NamedTuple

from efficientad.datasets.samples import MVTEC_LOCO_DEFECTS
from efficientad.method.sizes import ModelSize


class Accuracy(NamedTuple):
    """Image AU-ROC and AU-PRO."""

    au_roc: float
    au_pro: float


class Method(NamedTuple):
    """A row of Table 1, on one NVIDIA RTX A6000."""

    au_roc: float
    au_pro: float
    latency_ms: float
    images_per_second: float


N_SCENARIOS: Final = {"mvtec_ad": 15, "mvtec_loco": 5, "visa": 12}
"""Scenarios of each collection that the paper's means are over."""

COLLECTION_NAMES: Final = {
    "mvtec_ad": "MVTec AD",
    "mvtec_loco": "MVTec LOCO",
    "visa": "VisA",
}

LOGICAL, STRUCTURAL = MVTEC_LOCO_DEFECTS
"""The defect types of MVTec LOCO."""

BY_COLLECTION: Final[dict[str, dict[ModelSize, float]]] = {
    "mvtec_ad": {"small": 98.8, "medium": 99.1},
    "mvtec_loco": {"small": 90.0, "medium": 90.7},
    "visa": {"small": 97.5, "medium": 98.1},
}
"""Image AU-ROC, Table 2."""

LOCO_BY_KIND: Final[dict[str, dict[ModelSize, float]]] = {
    LOGICAL: {"small": 85.8, "medium": 86.8},
    STRUCTURAL: {"small": 94.1, "medium": 94.7},
}
"""Image AU-ROC by kind of defect."""

REFERENCE_SMALL: Final[dict[str, Accuracy]] = {
    "bottle": Accuracy(99.9, 95.2),
    "cable": Accuracy(93.5, 88.2),
    "capsule": Accuracy(98.4, 97.6),
    "carpet": Accuracy(99.4, 91.8),
    "grid": Accuracy(99.8, 89.3),
    "hazelnut": Accuracy(99.4, 94.8),
    "leather": Accuracy(100.0, 98.2),
    "metal_nut": Accuracy(99.5, 93.6),
    "pill": Accuracy(98.5, 97.0),
    "screw": Accuracy(97.9, 95.6),
    "tile": Accuracy(99.8, 88.1),
    "toothbrush": Accuracy(100.0, 94.6),
    "transistor": Accuracy(99.9, 90.3),
    "wood": Accuracy(99.7, 90.4),
    "zipper": Accuracy(99.6, 94.4),
}
"""MVTec AD by the reference reimplementation, size small."""

METHODS: Final[dict[str, Method]] = {
    "GCAD": Method(85.4, 88.0, 11, 121),
    "SimpleNet": Method(87.9, 74.4, 12, 194),
    "S–T": Method(88.4, 89.7, 75, 16),  # noqa: RUF001 - as the paper writes it
    "FastFlow": Method(90.0, 86.5, 17, 120),
    "DSR": Method(90.8, 78.6, 17, 104),
    "PatchCore": Method(91.1, 80.9, 32, 76),
    "PatchCore-Ens": Method(92.1, 80.7, 148, 13),
    "AST": Method(92.4, 77.2, 53, 41),
    "EfficientAD-S": Method(95.4, 92.5, 2.2, 614),
    "EfficientAD-M": Method(96.0, 93.3, 4.5, 269),
}
"""Table 1."""

LATENCY_MS: Final[dict[str, dict[ModelSize, float]]] = {
    "RTX A6000": {"small": 2.2, "medium": 4.5},
    "RTX A5000": {"small": 2.5, "medium": 5.3},
    "Tesla V100": {"small": 3.9, "medium": 6.3},
    "RTX 3080": {"small": 3.8, "medium": 7.0},
    "RTX 2080 Ti": {"small": 4.5, "medium": 7.6},
}
"""Milliseconds an image at batch 1, half precision (Figure 6)."""
