"""A predictor over a category's test images: metrics, and a report to look at.

Test images are read here and nowhere else. Nothing measured here flows back into a
detector: no threshold, no normalization, no choice.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets import (
    NORMAL,
    Category,
    Sample,
    open_category,
    read_defect_mask,
)
from efficientad.errors import DatasetError, UndefinedMetricError
from efficientad.evaluation.metrics import (
    au_roc,
    average_precision,
    f1_max,
    recall_at_fpr,
)
from efficientad.evaluation.pixel_results import (
    Measured,
    MetricValues,
    measure_pixels,
)
from efficientad.evaluation.report import Case, Report, ScoredImage, write_report
from efficientad.images.rgb import RGBImage, image_hash, read_image
from efficientad.inspection.predictor import Predictor
from efficientad.method.decision import Prediction
from efficientad.storage import require_writable, write_atomically
from efficientad.training.progress import tell

_N_CASES = 6
_RECALL_FPR = 0.01  # the false alarms that a calibration allows unless told otherwise
_METRICS_FILE, _REPORT_FILE = "metrics.json", "report.html"
_SECONDS = "training seconds"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good a predictor is on the test images of a category."""

    category: str
    metrics: MetricValues
    """Over all test images: image_au_roc, image_average_precision, image_f1_max,
    image_recall_at_fpr_0.01, pixel_au_roc, au_pro; for MVTec LOCO au_spro, au_spro_0.1,
    au_spro_0.3 and au_spro_1 instead of the last. A pixel metric is missing where no
    defect is annotated."""

    metrics_by_defect_type: Mapping[str, MetricValues]
    """The same for each defect type against all normal test images."""

    undefined: Mapping[str, str]
    """Why a metric is missing, by its name."""

    undefined_by_defect_type: Mapping[str, Mapping[str, str]]
    """The same for each defect type that misses one."""

    scores: Sequence[ScoredImage]
    threshold: float
    seconds: float
    """Wall-clock time of all predictions."""

    n_normal_flagged: int = field(init=False)
    n_defects_found: int = field(init=False)

    def __post_init__(self) -> None:
        """Count the decisions."""
        flagged = [s for s in self.scores if s.is_anomalous]
        n_found = sum(s.defect_type != NORMAL for s in flagged)
        object.__setattr__(self, "n_defects_found", n_found)
        object.__setattr__(self, "n_normal_flagged", len(flagged) - n_found)

    def as_json(self) -> dict[str, Any]:
        """Give everything as JSON knows it."""
        return {
            "category": self.category,
            **self.metrics,
            "by_defect_type": {
                k: dict(v) for k, v in self.metrics_by_defect_type.items()
            },
            "undefined": dict(self.undefined),
            "undefined_by_defect_type": {
                k: dict(v) for k, v in self.undefined_by_defect_type.items()
            },
            "threshold": self.threshold,
            "n_normal": sum(s.defect_type == NORMAL for s in self.scores),
            "n_defect": sum(s.defect_type != NORMAL for s in self.scores),
            "n_normal_flagged": self.n_normal_flagged,
            "n_defects_found": self.n_defects_found,
            "images": [
                {
                    "name": s.name,
                    "defect_type": s.defect_type,
                    "image_score": s.image_score,
                    "p_value": s.p_value,
                    "is_anomalous": s.is_anomalous,
                }
                for s in self.scores
            ],
        }


def evaluate(
    predictor: Predictor,
    category: Category | Path | str,
    *,
    output: Path | None = None,
    title: str | None = None,
    is_dated: bool = True,
) -> Evaluation:
    """Judge all test images of a category and compare with what is known.

    Args:
        predictor: A detector, or any other predictor.
        category: The category, or its folder or list as `open_category` takes it.
        output: Folder for metrics.json and report.html. None: nothing is written.
        title: Of the report. None: the category's name, and that it is an evaluation.
        is_dated: Whether the report tells when it was made and how long the training
            took. Without, the same detector and images give the same bytes.

    Raises:
        DatasetError: If the category cannot be used, or if the predictor was trained on
            test images of it.
        UndefinedMetricError: If it has no normal or no defective test images.
        StorageError: If a result cannot be written.
    """
    if not isinstance(category, Category):
        category = open_category(Path(category))
    require_both_kinds(category, otherwise="use predict")
    if output is not None:
        require_writable(output / _METRICS_FILE)
    collected = _Collected(category, predictor)
    evaluation = collected.evaluation()
    if output is not None:
        text = json.dumps(evaluation.as_json(), indent=1, allow_nan=False)
        write_atomically(output / _METRICS_FILE, text.encode())
        report = collected.report(evaluation, predictor)
        if title is not None:
            report = replace(report, title=title)
        if not is_dated:
            report = _undated(report)
        write_report(report, output / _REPORT_FILE)
    return evaluation


def image_metrics(scores: NDArray[Any], is_defect: NDArray[Any]) -> MetricValues:
    """Measure how well scores of whole images tell defects from normal images.

    Raises:
        UndefinedMetricError: If there are no defects or no normal images.
    """
    return {
        "image_au_roc": au_roc(scores, is_defect),
        "image_average_precision": average_precision(scores, is_defect),
        "image_f1_max": f1_max(scores, is_defect),
        f"image_recall_at_fpr_{_RECALL_FPR}": recall_at_fpr(
            scores, is_defect, _RECALL_FPR
        ),
    }


class _Collected:
    """What one pass over the test images gives; memory grows by scores only."""

    def __init__(self, category: Category, predictor: Predictor) -> None:
        self._category = category
        self._samples: dict[str, Sample] = {}
        self._predictions: dict[str, Prediction] = {}
        self.scores: list[ScoredImage] = []
        self.seconds = 0.0
        self._made_with = _made_with(predictor)
        self._n_twins = 0
        for sample in category.test:
            self._add(sample, predictor)
        if self._n_twins:
            tell(
                f"{self._n_twins} of {len(self.scores)} test images of {category.root} "
                "were trained or calibrated on; if this is not the published "
                f"{category.name} of {category.collection}, the results do not count"
            )

    def _add(self, sample: Sample, predictor: Predictor) -> None:
        image = read_image(sample.path)
        self._look_for_twin(image, sample)
        start = time.perf_counter()
        prediction = predictor.predict(image)
        self.seconds += time.perf_counter() - start
        name = self._category.name_of(sample)
        self._samples[name] = sample
        self.scores.append(
            ScoredImage(
                name=name,
                defect_type=sample.defect_type,
                image_score=prediction.image_score,
                p_value=prediction.p_value,
                is_anomalous=prediction.is_anomalous,
            )
        )
        # Grids only: maps at the image's own size are made again where they are needed.
        self._predictions[name] = replace(prediction)

    def _look_for_twin(self, image: RGBImage, sample: Sample) -> None:
        twin = self._made_with.get(image_hash(image))
        if twin is None:
            return
        # The published collections are judged as they are.
        if self._category.collection == "plain":
            raise DatasetError(
                "evaluation needs images that were neither trained nor calibrated on, "
                f"{sample.path} was, as {twin}; train on {self._category.root} itself, "
                "which keeps its test images apart, or take others"
            )
        self._n_twins += 1

    def evaluation(self) -> Evaluation:
        defect_types = sorted({s.defect_type for s in self.scores} - {NORMAL})
        pixels = measure_pixels(self._category, self._map_of)
        over_all = self._measured(defect_types, pixels.overall)
        by_type = {
            d: self._measured([d], pixels.by_defect_type[d]) for d in defect_types
        }
        return Evaluation(
            category=self._category.name,
            metrics=over_all.values,
            metrics_by_defect_type={d: m.values for d, m in by_type.items()},
            undefined=over_all.undefined,
            undefined_by_defect_type={
                d: m.undefined for d, m in by_type.items() if m.undefined
            },
            scores=tuple(self.scores),
            threshold=next(iter(self._predictions.values())).threshold,
            seconds=self.seconds,
        )

    def _map_of(self, sample: Sample) -> NDArray[np.float32]:
        # A copy: a prediction keeps the maps it was asked for.
        return replace(self._predictions[self._category.name_of(sample)]).anomaly_map

    def _measured(self, defect_types: Sequence[str], pixels: Measured) -> Measured:
        wanted = {NORMAL, *defect_types}
        chosen = [s for s in self.scores if s.defect_type in wanted]
        scores = np.array([s.image_score for s in chosen])
        is_defect = np.array([s.defect_type != NORMAL for s in chosen])
        values = image_metrics(scores, is_defect) | pixels.values
        return Measured(values, pixels.undefined)

    def report(self, evaluation: Evaluation, predictor: Predictor) -> Report:
        ordered = sorted(self.scores, key=lambda s: s.image_score)
        defects = [s for s in ordered if s.defect_type != NORMAL]
        normals = [s for s in ordered if s.defect_type == NORMAL]
        return Report(
            title=f"{self._category.name}: evaluation",
            metrics=evaluation.metrics,
            metrics_by_defect_type=evaluation.metrics_by_defect_type,
            undefined=evaluation.undefined,
            undefined_by_defect_type=evaluation.undefined_by_defect_type,
            scores=evaluation.scores,
            threshold=evaluation.threshold,
            missed=[self._case(s) for s in defects[:_N_CASES]],
            found=[self._case(s) for s in reversed(defects[-_N_CASES:])],
            highest_normal=[self._case(s) for s in reversed(normals[-_N_CASES:])],
            facts=_facts(predictor),
        )

    def _case(self, scored: ScoredImage) -> Case:
        sample = self._samples[scored.name]
        image = read_image(sample.path)
        has_mask = sample.is_defect and sample.mask_path is not None
        return Case(
            name=scored.name,
            defect_type=scored.defect_type,
            prediction=self._predictions[scored.name],
            image=image,
            defect_mask=read_defect_mask(sample, *image.shape[:2])
            if has_mask
            else None,
        )


def require_both_kinds(category: Category, *, otherwise: str) -> None:
    """Refuse a category whose image metrics would be undefined.

    Args:
        category: With its test images.
        otherwise: What to do where none can be added, for the message.

    Raises:
        UndefinedMetricError: If there are no normal or no defective test images.
    """
    n_defects = sum(sample.is_defect for sample in category.test)
    if n_defects in {0, len(category.test)}:
        missing = "defective" if n_defects == 0 else "normal"
        raise UndefinedMetricError(
            "evaluation needs normal and defective test images, the test of "
            f"{category.root} has no {missing} ones; add some, or {otherwise}"
        )


def _made_with(predictor: Predictor) -> dict[str, str]:
    """Name the images a predictor was trained and calibrated on, by their hash."""
    provenance: Mapping[str, Any] = getattr(predictor, "provenance", {})
    return {
        digest: name
        for kind in ("decision_images", "validation_images", "training_images")
        for name, digest in provenance.get(kind, {}).items()
    }


def _facts(predictor: Predictor) -> dict[str, str]:
    """Say what is known of the predictor; a detector knows how it came to be."""
    calibration = getattr(predictor, "calibration", None)
    provenance: Mapping[str, Any] = getattr(predictor, "provenance", {})
    facts = {"size": str(getattr(predictor, "size", "unknown"))}
    if calibration is not None:
        facts["calibration"] = calibration.statement()
    for name in ("preset", "seed", "training_seconds", "efficientad", "torch"):
        if name in provenance:
            facts[name.replace("_", " ")] = str(provenance[name])
    if "recipe" in provenance:
        recipe = provenance["recipe"]
        # Earlier files count images as steps.
        batch_size = recipe["batch_size"] if "p_hard" in recipe else 1
        facts["images trained on"] = str(recipe["steps"] * batch_size)
    if "training_images" in provenance:
        facts["training images"] = str(len(provenance["training_images"]))
    if "teacher" in provenance:
        facts["teacher, sha256"] = str(provenance["teacher"].get("hash"))
    return facts


def _undated(report: Report) -> Report:
    facts = {name: fact for name, fact in report.facts.items() if name != _SECONDS}
    return replace(report, made_on=None, facts=facts)
