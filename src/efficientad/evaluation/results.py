"""The results of an evaluation, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from efficientad.datasets import NORMAL
from efficientad.decisions.decision import Decision
from efficientad.evaluation.pixel_results import MetricValues, RegionCounts
from efficientad.evaluation.shifts import Shift


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """The prediction for one test image, without its maps."""

    name: str
    """Path within the category."""
    defect_type: str
    """`good` where there is no defect."""
    image_score: float
    p_value: float
    decision: Decision

    @property
    def is_anomalous(self) -> bool:
        """Whether the image is called anomalous."""
        return self.decision == "anomalous"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good a predictor is on the test images of a category."""

    category: str
    metrics: MetricValues
    """Over all test images: image_au_roc, image_average_precision, image_f1_max,
    image_recall_at_fpr_0.01, pixel_au_roc, au_pro; for MVTec LOCO au_spro, au_spro_0.1,
    au_spro_0.3 and au_spro_1 instead of the last. A pixel metric is missing where no
    defect is annotated. `image_au_roc_held_out` compares defects with the held-out
    normal images of the calibration, as a line sees them, instead of good test images.
    """

    metrics_by_defect_type: Mapping[str, MetricValues]
    """The same for each defect type against all normal test images."""

    undefined: Mapping[str, str]
    """Reason for each missing metric, by its name."""

    undefined_by_defect_type: Mapping[str, Mapping[str, str]]
    """The same for each defect type that misses one."""

    scores: Sequence[ScoredImage]
    threshold: float
    """Scores above it are anomalous."""
    shifts: Sequence[Shift] = ()
    """Quantities in which good test images differ from held-out normal images."""
    session_alarms: Mapping[str, float] = field(default_factory=dict)
    """Share of held-out normal images that are flagged after each kind of change that
    is no defect, in [0, 1]."""
    regions: RegionCounts | None = None
    """Regions found, missed and false at the threshold."""
    seconds: float = 0.0
    """Wall-clock time of all predictions."""

    @property
    def n_normal_flagged(self) -> int:
        """Number of false alarms."""
        return sum(s.is_anomalous and s.defect_type == NORMAL for s in self.scores)

    @property
    def n_defects_found(self) -> int:
        """Number of defective images that are called anomalous."""
        return sum(s.is_anomalous and s.defect_type != NORMAL for s in self.scores)

    @property
    def n_defect(self) -> int:
        """Number of defective images."""
        return sum(s.defect_type != NORMAL for s in self.scores)

    @property
    def n_normal(self) -> int:
        """Number of good test images."""
        return len(self.scores) - self.n_defect

    @property
    def n_unsure(self) -> int:
        """Number of images that a person should look at."""
        return sum(s.decision == "unsure" for s in self.scores)

    def __str__(self) -> str:
        """Return what the decision at the threshold finds, as one sentence."""
        return (
            f"found {self.n_defects_found} of {self.n_defect} defects, "
            f"{self.n_normal_flagged} of {self.n_normal} false alarms"
        ) + (f", {self.n_unsure} unsure" if self.n_unsure else "")

    def as_json(self) -> dict[str, Any]:
        """Return everything in the types of JSON."""
        return {
            "category": self.category,
            **self.metrics,
            "by_defect_type": dict(self.metrics_by_defect_type),
            "undefined": dict(self.undefined),
            "undefined_by_defect_type": dict(self.undefined_by_defect_type),
            "threshold": self.threshold,
            "n_normal": self.n_normal,
            "n_defect": self.n_defect,
            "n_normal_flagged": self.n_normal_flagged,
            "n_defects_found": self.n_defects_found,
            "n_unsure": self.n_unsure,
            "regions": self.regions and self.regions._asdict(),
            "session_alarms": dict(self.session_alarms),
            "shifts": [asdict(shift) for shift in self.shifts],
            "images": [
                asdict(s) | {"is_anomalous": s.is_anomalous} for s in self.scores
            ],
        }
