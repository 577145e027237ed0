"""Jobs: one training and its evaluations, recorded; the common part of all studies.

A job is finished when each of its evaluations is a recorded run. A killed job continues
from its checkpoint, or from its detector if only evaluations are left. A failed job is
recorded with its reason, and tried again the next time.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from efficientad.calibration.fit import Fit, fit_calibration
from efficientad.calibration.normal_images import (
    NormalImages,
    read_normal_images,
    training_and_validation,
)
from efficientad.cli.process import held_back_interrupt
from efficientad.datasets import Category
from efficientad.errors import ModelFileError, StorageError
from efficientad.evaluation.evaluate import evaluate
from efficientad.evaluation.results import Evaluation
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.method.maps import HIGH_QUANTILE, LOW_QUANTILE, fit_quantiles
from efficientad.model_files.teachers import shipped_teacher_path
from efficientad.storage import file_hash, require_writable
from efficientad.training.config import Recipe, TrainConfig
from efficientad.training.quick import QuickRecipe
from efficientad.training.run import train
from efficientad_lab.benchmark.memory import own_peak_mib
from efficientad_lab.environment import environment
from efficientad_lab.normalization import fit_mean_and_deviation
from efficientad_lab.studies.cached_maps import CachingEngine
from efficientad_lab.studies.evaluated_samples import (
    annotations_fingerprint,
    fingerprint,
    write_samples,
)
from efficientad_lab.studies.hard_masks import HardMaskRecorder
from efficientad_lab.studies.records import (
    FAILURE,
    Run,
    differing_settings,
    file_name,
    recorded_file,
    run_name,
    write_run,
)
from efficientad_lab.studies.usable import require_usable

MODEL_FILE: Final = "part.ead"


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalization:
    """Normalization of the raw maps."""

    low: float | None = LOW_QUANTILE
    """The paper's a, in [0, 1). None, with `high`: by mean and standard deviation."""

    high: float | None = HIGH_QUANTILE
    """The paper's b, above a, at most 1."""


QUANTILES: Final = Normalization()
MEAN_AND_DEVIATION: Final = Normalization(low=None, high=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedEvaluation:
    """One evaluation of a trained detector."""

    variant: str
    """Name of the recorded run."""

    normalization: Normalization = QUANTILES


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training and its evaluations."""

    experiment: str
    category: Category
    config: TrainConfig
    recipe: Recipe
    variant: str
    """Name of the training."""

    evaluations: tuple[PlannedEvaluation, ...]
    """At least one."""

    def identity(self, planned: PlannedEvaluation) -> Run:
        """Return the fields that identify the run of an evaluation."""
        return {
            "experiment": self.experiment,
            "collection": self.category.collection,
            "category": self.category.name,
            "variant": planned.variant,
            "seed": self.config.seed,
        }

    def files(self) -> dict[str, str]:
        """Return hashes of teacher, images and masks; reads every mask."""
        return {
            "teacher": _teacher_hash(self.config),
            "images": fingerprint(self.category),
            "annotations": annotations_fingerprint(self.category),
        }

    def settings(
        self, planned: PlannedEvaluation, files: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return everything that the result depends on, as JSON values."""
        config = {name: str(value) for name, value in asdict(self.config).items()}
        settings = {
            "config": config,
            "recipe": asdict(self.recipe),
            "normalization": asdict(planned.normalization),
            **files,
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    @property
    def name(self) -> str:
        """Name of the training's folder."""
        return run_name(self.identity(PlannedEvaluation(variant=self.variant)))


@dataclass(frozen=True, slots=True)
class Place:
    """Folders of a study."""

    results: Path
    """Folder of the recorded runs."""

    work: Path
    """Folder of checkpoints, detectors and reports, with a folder for each training."""

    keeps_detectors: bool = True
    """Keep detectors when all their runs are recorded."""


def pending(job: Job, place: Place) -> list[PlannedEvaluation]:
    """Return the evaluations that are not recorded, or recorded as failed.

    Raises:
        ResultError: If a run of the same name cannot be read, or has other settings,
            images, masks or another teacher.
    """
    files = job.files()
    return [
        planned
        for planned in job.evaluations
        if recorded_file(
            job.identity(planned) | {"settings": job.settings(planned, files)},
            place.results,
            _differing,
        )
        is None
    ]


def do(job: Job, place: Place) -> Exception | None:
    """Train, evaluate and record what is not recorded yet.

    Any error of the job is recorded and returned, so that other jobs can go on. Only a
    result that cannot be written ends everything.

    Args:
        job: Job to do.
        place: Folders of the study.

    Returns:
        The error, or None.

    Raises:
        ResultError: As `pending`.
        StorageError: If a result or a file of the training cannot be written.
    """
    left = pending(job, place)
    if not left:
        return None
    require_writable(place.results / file_name(job.identity(left[0])))
    folder = place.work / job.name
    try:
        predictor, timings = _trained(job, folder)
        predictor = replace(predictor, engine=CachingEngine(predictor.engine))
        # First with the calibration of the training: the networks run, and are timed.
        left.sort(key=lambda planned: planned.normalization != QUANTILES)
        while left:
            measured = _evaluated(job, left[0], predictor, folder)
            measured["seconds"] = timings | measured["seconds"]
            _record(job, left[0], measured, place)
            del left[0]
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - recorded, and reported by the caller
        failure = {FAILURE: f"{type(error).__name__}: {error}", "metrics": {}}
        for planned in left:
            _record(job, planned, failure, place)
        return error
    if not place.keeps_detectors:
        (folder / MODEL_FILE).unlink(missing_ok=True)
    return None


def _trained(job: Job, folder: Path) -> tuple[Predictor, dict[str, float]]:
    """Return the trained predictor and seconds; train if there is no file of it."""
    require_usable(job.category)
    path = folder / MODEL_FILE
    write_samples(job.category.test, folder)
    if path.exists():
        predictor = _saved(job, path)
        return predictor, {"train": predictor.provenance["training_seconds"]}
    started = time.monotonic()
    config = replace(job.config, resume=True)
    predictor = train(
        job.category,
        config,
        output=path,
        recipe=job.recipe,
        on_step=HardMaskRecorder(job.category, config, job.recipe, folder),
        interrupts=held_back_interrupt,
    )
    # A resumed training adds to the steps' time of the earlier ones.
    return predictor, {
        "train": predictor.provenance["training_seconds"],
        "this_process": round(time.monotonic() - started, 1),
    }


def _teacher_hash(config: TrainConfig) -> str:
    return file_hash(config.teacher or shipped_teacher_path(config.size))


def _saved(job: Job, path: Path) -> Predictor:
    """Read the detector of an earlier call.

    Raises:
        ModelFileError: If it has other settings or images than the job.
    """
    predictor = load(path, device=job.config.device)
    made = predictor.provenance
    teacher = _teacher_hash(job.config)
    training, held_out = _split(job)
    if (
        made["recipe"] != asdict(job.recipe)
        or made["teacher"]["hash"] != teacher
        or _lasting_config(made["config"]) != _lasting_config(asdict(job.config))
        or set(made["training_images"].values()) != set(training.hashes)
        or set(made["validation_images"].values()) != set(held_out.hashes)
    ):
        raise ModelFileError(
            f"{path} is a detector of other settings or images; remove it, or give "
            "another output"
        )
    return predictor


def _split(job: Job) -> tuple[NormalImages, NormalImages]:
    """Return training images and held-out images."""
    config = job.config
    return training_and_validation(
        job.category,
        validation=config.validation,
        validation_share=config.validation_share,
        seed=config.seed,
    )


def _evaluated(
    job: Job, planned: PlannedEvaluation, predictor: Predictor, folder: Path
) -> dict[str, Any]:
    """Evaluate once; the evaluation with the training's calibration writes a report."""
    is_main = planned.normalization == QUANTILES
    if not is_main:
        predictor = _normalized(job, planned.normalization, predictor)
    started = time.monotonic()
    evaluation = evaluate(predictor, job.category, output=folder if is_main else None)
    measured = _measured(evaluation)
    if not is_main:
        del measured["latency_ms"]  # the networks did not run
    return {
        **measured,
        "seconds": {"evaluate": round(time.monotonic() - started, 1)},
        "peak_memory_mib": {"process": round(own_peak_mib())},
        "training": job.name,
    }


def _normalized(
    job: Job, normalization: Normalization, predictor: Predictor
) -> Predictor:
    """Return a predictor with another normalization, fitted on held-out images."""
    names = [*predictor.provenance["validation_images"]]
    held_out = read_normal_images(names, predictor.preparation)
    low, high = normalization.low, normalization.high
    fit: Fit = fit_mean_and_deviation
    if low is not None and high is not None:
        fit = partial(fit_quantiles, low=low, high=high)
    calibration = fit_calibration(
        predictor.engine,
        held_out.pixels,
        false_alarm_budget=job.config.false_alarm_budget,
        fit=fit,
        divides_by_level=isinstance(job.recipe, QuickRecipe)
        and job.recipe.divides_by_level,
        alignment=predictor.preparation.alignment,
    )
    return replace(predictor, calibration=calibration)


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    n_images = len(evaluation.scores)
    return {
        "metrics": {
            **evaluation.metrics,
            "defect_types": {
                kind: dict(metrics)
                for kind, metrics in evaluation.metrics_by_defect_type.items()
            },
        },
        "threshold": evaluation.threshold,
        "n_normal_flagged": evaluation.n_normal_flagged,
        "n_defects_found": evaluation.n_defects_found,
        "n_defect": evaluation.n_defect,
        "n_normal": n_images - evaluation.n_defect,
        "found_by_type": {
            kind: [
                sum(s.is_anomalous for s in evaluation.scores if s.defect_type == kind),
                sum(s.defect_type == kind for s in evaluation.scores),
            ]
            for kind in evaluation.metrics_by_defect_type
        },
        "shifts": [asdict(shift) for shift in evaluation.shifts],
        "n_test_images": n_images,
        "latency_ms": round(1000 * evaluation.seconds / n_images, 2),
    }


def _record(job: Job, planned: PlannedEvaluation, measured: Run, place: Place) -> None:
    settings = {"settings": job.settings(planned, job.files())}
    run = {**job.identity(planned), **settings, **measured, **environment()}
    write_run(run, place.results)


def _differing(recorded: Run, requested: Run) -> list[str]:
    """Return the names of differing settings that change the result."""
    runs = []
    for run in (recorded, requested):
        settings = dict(run.get("settings", {}))
        settings["config"] = _lasting_config(settings.get("config", {}))
        runs.append({"settings": settings})
    return differing_settings(*runs)


def _lasting_config(config: Mapping[str, Any]) -> dict[str, str]:
    return {k: str(v) for k, v in config.items() if k not in {"resume", "device"}}
