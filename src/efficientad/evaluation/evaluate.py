"""Evaluation on the test images of a category: metrics, and a report to look at.

Test images are read here and nowhere else. Nothing that is measured here changes a
detector: no threshold, no normalization, no choice.
"""

import itertools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

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
    Annotations,
    Measured,
    MetricValues,
    PixelResults,
    count_regions,
    measure_pixels,
)
from efficientad.evaluation.report import (
    Report,
    environment,
    highest_normal,
    write_report,
)
from efficientad.evaluation.report_pictures import MAX_PICTURES, Picture, picture_of
from efficientad.evaluation.results import Evaluation, ScoredImage
from efficientad.evaluation.shifts import SCORE, shifts
from efficientad.images.appearance import QUANTITIES, appearance
from efficientad.images.rgb import (
    RGBImage,
    image_hash,
    resize_image,
)
from efficientad.inspection.prediction import Prediction
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.tiling import whole_views
from efficientad.names import as_text
from efficientad.progress import Progress, tracked
from efficientad.settings import checks_arguments
from efficientad.storage import files_together, require_writable, write_atomically

Predicted: TypeAlias = Mapping[Sample, Prediction]

_RECALL_FPR: Final = 0.01
_FACTS: Final = ("method", "preset", "seed", "training_seconds", "efficientad", "torch")
_METRICS_FILE, _REPORT_FILE = "metrics.json", "report.html"
logger = logging.getLogger(__name__)


@checks_arguments
def evaluate(
    predictor: Predictor,
    category: Category | Path | str,
    *,
    output: Path | None = None,
    title: str | None = None,
    is_dated: bool = True,
) -> Evaluation:
    """Predict all test images of a category and compare with their labels.

    Args:
        predictor: Model to evaluate.
        category: Category, or its folder or list as `open_category` takes it.
        output: Folder for metrics.json and report.html. None: nothing is written.
        title: Title of the report. None: the category's name, and "evaluation".
        is_dated: Whether the report shows its date and how long the training took.
            Without, the same model and images give the same bytes.

    Raises:
        DatasetError: If the category cannot be used, if the model was trained or
            calibrated on test images of it, or if its provenance does not name the
            training images.
        MissingDependencyError: If a package for the metrics or the report is missing.
        UndefinedMetricError: If there are no normal or no defective test images.
        StorageError: If a result cannot be written.
    """
    if not isinstance(category, Category):
        category = open_category(Path(category))
    require_both_kinds(category, otherwise="use predict")
    if category.unused:
        logger.warning(category.unused)
    if output is not None:
        environment()
        for name in (_METRICS_FILE, _REPORT_FILE):
            require_writable(output / name)
    predicted, pictures, good, seconds = _predict(
        predictor, category, is_shown=output is not None
    )
    pixels = _measured_pixels(category, predicted)
    evaluation = _evaluation(category, predictor, predicted, pixels, good)
    regions = count_regions(predicted, Annotations(category))
    evaluation = replace(evaluation, seconds=seconds, regions=regions)
    for shift in evaluation.shifts:
        logger.warning("%s; see image_au_roc_held_out", shift)
    if evaluation.n_normal_flagged > evaluation.n_normal / 2:
        logger.warning(
            "%d of %d good test images score above the threshold, as images of another "
            "product or session do; look whether %s is what the model was trained on",
            evaluation.n_normal_flagged,
            evaluation.n_normal,
            category.root,
        )
    if output is not None:
        content = as_text(evaluation.as_json())
        text = json.dumps(content, indent=1, allow_nan=False)
        title = title or f"{category.name}: evaluation"
        report = _report(title, predictor, pictures, evaluation)
        if not is_dated:
            report.facts.pop("training seconds", None)
            report = replace(report, made_on=None)
        with files_together([output / _METRICS_FILE, output / _REPORT_FILE]) as folder:
            write_atomically(folder / _METRICS_FILE, text.encode())
            write_report(report, folder / _REPORT_FILE)
    return evaluation


def held_out_au_roc(defect_scores: NDArray[Any], held_out: Sequence[float]) -> float:
    """Return the image AU-ROC of defects against held-out normal images.

    Good test images may come from another session than the training images. The
    held-out ones are what a line that was calibrated on them sees.
    """
    scores = np.concatenate([defect_scores, held_out])
    return au_roc(scores, np.arange(len(scores)) < len(defect_scores))


def image_metrics(scores: NDArray[Any], is_defect: NDArray[Any]) -> MetricValues:
    """Return how well the scores of whole images separate defects from normal images.

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


def require_both_kinds(category: Category, *, otherwise: str) -> None:
    """Raise `UndefinedMetricError` without normal or without defective test images.

    `otherwise` is the advice for the message where no images can be added.
    """
    n_defects = sum(sample.is_defect for sample in category.test)
    if n_defects in {0, len(category.test)}:
        missing, name = ("normal", NORMAL) if n_defects else ("defective", "otherwise")
        raise UndefinedMetricError(
            "evaluation needs normal and defective test images, the test of "
            f"{category.root} has no {missing} ones; add some in a folder "
            f"named {name}, or {otherwise}"
        )


def _predict(
    predictor: Predictor, category: Category, *, is_shown: bool
) -> tuple[dict[Sample, Prediction], list[Picture], dict[str, list[float]], float]:
    """Return predictions, pictures, looks of the good images, and seconds taken."""
    made_with = _made_with(predictor)
    good: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    predicted: dict[Sample, Prediction] = {}
    pictures: list[Picture] = []
    seconds, n_duplicates = 0.0, 0
    for sample in tracked(category.test, len(category.test), "evaluating"):
        image = predictor.preparation.read(sample.path)
        n_duplicates += _is_duplicate(image, sample, category, made_with)
        start = time.perf_counter()
        predicted[sample] = predictor.predict(image)
        seconds += time.perf_counter() - start
        if is_shown:
            is_annotated = sample.is_defect and sample.mask_path is not None
            picture = picture_of(
                category.name_of(sample.path),
                sample.defect_type,
                image,
                predicted[sample],
                read_defect_mask(sample, *image.shape[:2]) if is_annotated else None,
                n_pictures=len(category.test),
            )
            pictures.append(picture)
        if not sample.is_defect:
            pose, size = predicted[sample].pose, predictor.preparation.size
            seen = image if pose is None else pose.aligned(image)
            (whole,) = whole_views(resize_image(seen, *size)[np.newaxis])
            for name, value in appearance(whole).items():
                good[name].append(value)
    if n_duplicates:
        logger.warning(
            "%d of %d test images of %s were trained or calibrated on; if this is not "
            "the published %s of %s, the results do not count",
            n_duplicates,
            len(category.test),
            category.root,
            category.name,
            category.collection,
        )
    return predicted, pictures, good, seconds


def _measured_pixels(category: Category, predicted: Predicted) -> PixelResults:
    """Return the pixel metrics, and show how many maps are done."""
    n_maps = sum(2 if sample.is_defect else 1 for sample in category.test)
    numbers = itertools.count(1)
    with closing(Progress(n_maps, "map", task="measuring")) as progress:

        def map_of(sample: Sample) -> NDArray[np.float32]:
            progress.update(next(numbers))
            # A copy, because a prediction keeps the map it was asked for.
            return replace(predicted[sample]).anomaly_map

        return measure_pixels(category, map_of)


def _is_duplicate(
    image: RGBImage, sample: Sample, category: Category, made_with: Mapping[str, str]
) -> bool:
    """Return whether a test image made the model; raise unless it is published so."""
    duplicate = made_with.get(image_hash(image))
    if duplicate is not None and category.collection == "plain":
        raise DatasetError(
            "evaluation needs images that were neither trained nor calibrated on, "
            f"{sample.path} was, as {duplicate}; train on {category.root} itself, "
            "which keeps its test images apart, or take others"
        )
    return duplicate is not None


def _evaluation(
    category: Category,
    predictor: Predictor,
    predicted: Predicted,
    pixels: PixelResults,
    good: dict[str, list[float]],
) -> Evaluation:
    held_out = predictor.calibration.normal_scores
    overall = _measured(list(predicted), predicted, pixels.overall, held_out)
    by_type = {
        defect_type: _measured(
            [s for s in predicted if s.defect_type in {NORMAL, defect_type}],
            predicted,
            of_type,
            held_out,
        )
        for defect_type, of_type in sorted(pixels.by_defect_type.items())
    }
    good_scores = [p.image_score for s, p in predicted.items() if not s.is_defect]
    looks = predictor.provenance.get("validation_appearance", {})
    return Evaluation(
        category=category.name,
        metrics=overall.values,
        metrics_by_defect_type={d: m.values for d, m in by_type.items()},
        undefined=overall.undefined,
        undefined_by_defect_type={
            d: m.undefined for d, m in by_type.items() if m.undefined
        },
        scores=tuple(
            ScoredImage(
                name=category.name_of(sample.path),
                defect_type=sample.defect_type,
                image_score=prediction.image_score,
                p_value=prediction.p_value,
                decision=prediction.decision,
            )
            for sample, prediction in predicted.items()
        ),
        threshold=predictor.calibration.threshold,
        session_alarms=predictor.calibration.session_alarms(),
        shifts=shifts({**good, SCORE: good_scores}, {**looks, SCORE: held_out}),
    )


def _measured(
    samples: Sequence[Sample],
    predicted: Predicted,
    pixels: Measured,
    held_out: Sequence[float],
) -> Measured:
    scores = np.array([predicted[sample].image_score for sample in samples])
    is_defect = np.array([sample.is_defect for sample in samples])
    metrics = image_metrics(scores, is_defect)
    metrics["image_au_roc_held_out"] = held_out_au_roc(scores[is_defect], held_out)
    return Measured(metrics | pixels.values, pixels.undefined)


def _report(
    title: str,
    predictor: Predictor,
    pictures: Sequence[Picture],
    evaluation: Evaluation,
) -> Report:
    nearest = sorted(
        pictures, key=lambda shown: abs(shown.image_score - evaluation.threshold)
    )
    farther = [p for p in highest_normal(pictures) if p in nearest[MAX_PICTURES:]]
    return Report(
        title=title,
        evaluation=evaluation,
        pictures=nearest[:MAX_PICTURES] + farther,
        has_region_of_interest=bool(predictor.calibration.rule.region_of_interest),
        calibration=predictor.calibration.statement(),
        facts=_facts(predictor),
        made_on=datetime.now(UTC).astimezone().date(),
    )


def _made_with(predictor: Predictor) -> dict[str, str]:
    """Return the names of the images that made a model, by their hash."""
    provenance = predictor.provenance
    if "training_images" not in provenance:
        raise DatasetError(
            "evaluation needs to know which images the model was trained on, its "
            "provenance does not name them; train it again"
        )
    return {
        digest: name
        for kind in ("decision_images", "validation_images", "training_images")
        for name, digest in provenance.get(kind, {}).items()
    }


def _facts(predictor: Predictor) -> dict[str, str]:
    provenance = predictor.provenance
    facts: dict[str, str] = {"size": predictor.size} if predictor.size else {}
    for name in _FACTS:
        if name in provenance:
            facts[name.replace("_", " ")] = str(provenance[name])
    recipe = provenance.get("recipe", {})
    if {"steps", "batch_size"} <= recipe.keys():
        # Earlier files count images as steps.
        batch_size = recipe["batch_size"] if "p_hard" in recipe else 1
        facts["images trained on"] = str(recipe["steps"] * batch_size)
    facts["training images"] = str(len(provenance["training_images"]))
    if "teacher" in provenance:
        facts["teacher, sha256"] = str(provenance["teacher"].get("hash"))
    return facts
