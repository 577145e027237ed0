"""One training and all that is judged of it, recorded: what every study shares.

A job is finished when each of its judgings is a recorded run. A killed one goes on,
from its checkpoint, or from its detector where only judging is left. A failed one is
recorded with its reason, and tried again the next time.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from efficientad.cli.interruption import held_back_interrupt
from efficientad.datasets import Category
from efficientad.errors import ModelFileError, StorageError
from efficientad.evaluation.evaluate import evaluate
from efficientad.evaluation.results import Evaluation
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.method.maps import (
    HIGH_QUANTILE,
    LOW_QUANTILE,
    fit_mean_and_deviation,
    fit_quantiles,
)
from efficientad.model_files.teachers import shipped_teacher_path
from efficientad.storage import file_hash, require_writable
from efficientad.training.calibration import Fit, fit_calibration
from efficientad.training.config import Recipe, TrainConfig
from efficientad.training.normal_images import NormalImages, training_and_validation
from efficientad.training.quick import QuickRecipe
from efficientad.training.run import train
from efficientad_lab.benchmark.memory import own_peak_mib
from efficientad_lab.environment import environment
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
    """How the raw maps are put on one scale."""

    low: float | None = LOW_QUANTILE
    """The paper's a, in [0, 1). None, with `high`: by mean and standard deviation."""

    high: float | None = HIGH_QUANTILE
    """The paper's b, above a, at most 1."""


QUANTILES: Final = Normalization()
MEAN_AND_DEVIATION: Final = Normalization(low=None, high=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """One evaluation of a trained detector."""

    variant: str
    """What the recorded run is called."""

    normalization: Normalization = QUANTILES


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training and all that is judged of it."""

    experiment: str
    category: Category
    config: TrainConfig
    recipe: Recipe
    variant: str
    """What the training is called."""

    judgings: tuple[Judging, ...]
    """At least one."""

    def identity(self, judging: Judging) -> Run:
        """Give what names the run of a judging."""
        return {
            "experiment": self.experiment,
            "collection": self.category.collection,
            "category": self.category.name,
            "variant": judging.variant,
            "seed": self.config.seed,
        }

    def files(self) -> dict[str, str]:
        """Give hashes of all files that the result depends on; reads every mask."""
        return {
            "teacher": _teacher_hash(self.config),
            "images": fingerprint(self.category),
            "annotations": annotations_fingerprint(self.category),
        }

    def settings(self, judging: Judging, files: Mapping[str, str]) -> dict[str, Any]:
        """Give all that the result depends on, as JSON knows it.

        Args:
            judging: One of the job's.
            files: As `files` gives them.
        """
        config = {name: str(value) for name, value in asdict(self.config).items()}
        settings = {
            "config": config,
            "recipe": asdict(self.recipe),
            "normalization": asdict(judging.normalization),
            **files,
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    @property
    def name(self) -> str:
        """Of the folder of the training."""
        return run_name(self.identity(Judging(variant=self.variant)))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a study lies."""

    results: Path
    """Folder of the recorded runs."""

    work: Path
    """Folder of checkpoints, detectors and reports, one folder a training."""

    keeps_detectors: bool = True
    """Whether detectors stay when everything of them is recorded."""


def pending(job: Job, place: Place) -> list[Judging]:
    """List what is not recorded yet, or was recorded as failed.

    Raises:
        ResultError: If a run is recorded under this name that cannot be read, or that
            had other settings, images or another teacher.
    """
    files = job.files()
    return [
        judging
        for judging in job.judgings
        if recorded_file(
            job.identity(judging) | {"settings": job.settings(judging, files)},
            place.results,
            _differing,
        )
        is None
    ]


def do(job: Job, place: Place) -> Exception | None:
    """Train, judge and record what is not recorded yet.

    Whatever goes wrong with this job is recorded and returned, so that the others can
    go on; only results that cannot be written end everything.

    Args:
        job: What to do.
        place: Where.

    Returns:
        Why it failed, or None.

    Raises:
        ResultError: As `pending`.
        StorageError: If a result, or what belongs to a training, cannot be written.
    """
    left = pending(job, place)
    if not left:
        return None
    require_writable(place.results / file_name(job.identity(left[0])))
    folder = place.work / job.name
    try:
        predictor, timings = _trained(job, folder)
        predictor = replace(predictor, engine=CachingEngine(predictor.engine))
        # First with the calibration of the training, and a latency of the networks.
        left.sort(key=lambda judging: judging.normalization != QUANTILES)
        while left:
            measured = _judged(job, left[0], predictor, folder)
            measured["seconds"] = timings | measured["seconds"]
            _record(job, left[0], measured, place)
            del left[0]
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - recorded, and reported by the caller
        failure = {FAILURE: f"{type(error).__name__}: {error}", "metrics": {}}
        for judging in left:
            _record(job, judging, failure, place)
        return error
    if not place.keeps_detectors:
        (folder / MODEL_FILE).unlink(missing_ok=True)
    return None


def _trained(job: Job, folder: Path) -> tuple[Predictor, dict[str, float]]:
    """Give the detector of a job, trained now or by a process that was killed."""
    require_usable(job.category)
    path = folder / MODEL_FILE
    write_samples(job.category.test, folder)
    kept = _kept_detector(job, path)
    if kept is not None:
        return kept, {"train": kept.provenance["training_seconds"]}
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
    # The steps' time goes on where a resumed training left off.
    seconds = {
        "train": predictor.provenance["training_seconds"],
        "this_process": round(time.monotonic() - started, 1),
    }
    return predictor, seconds


def _teacher_hash(config: TrainConfig) -> str:
    return file_hash(config.teacher or shipped_teacher_path(config.size))


def _kept_detector(job: Job, path: Path) -> Predictor | None:
    if not path.exists():
        return None
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
    """Give the images of a training, and those held out from it."""
    config = job.config
    return training_and_validation(
        job.category,
        validation=config.validation,
        validation_share=config.validation_share,
        seed=config.seed,
    )


def _judged(
    job: Job, judging: Judging, predictor: Predictor, folder: Path
) -> dict[str, Any]:
    """Evaluate once; the main judging of a job also writes its report."""
    is_main = judging.normalization == QUANTILES
    if not is_main:
        predictor = _normalized(job, judging.normalization, predictor)
    started = time.monotonic()
    category = job.category
    evaluation = evaluate(predictor, category, output=folder if is_main else None)
    memory = own_peak_mib()
    measured = _measured(evaluation)
    if not is_main:
        # The networks may not have run.
        del measured["latency_ms"]
    return {
        **measured,
        "seconds": {"evaluate": round(time.monotonic() - started, 1)},
        "peak_memory_mib": {"process": round(memory)},
        "training": job.name,
    }


def _normalized(
    job: Job, normalization: Normalization, predictor: Predictor
) -> Predictor:
    """Return it calibrated anew on the images held out from the training."""
    _, held_out = _split(job)
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
        "n_test_images": n_images,
        "latency_ms": round(1000 * evaluation.seconds / n_images, 2),
    }


def _record(job: Job, judging: Judging, measured: Run, place: Place) -> None:
    settings = {"settings": job.settings(judging, job.files())}
    run = {**job.identity(judging), **settings, **measured, **environment()}
    write_run(run, place.results)


def _differing(recorded: Run, asked: Run) -> list[str]:
    """Name what changes the result and is another than asked for.

    Older records do not tell teacher, images, annotations, or the preset's quantiles.
    """
    told, now = recorded.get("settings", {}), dict(asked["settings"])
    untold = {name: now[name] for name in ("teacher", "images", "annotations")}
    before = untold | {"normalization": asdict(QUANTILES)} | told
    for settings in (before, now):
        settings["config"] = _lasting_config(settings.get("config", {}))
    return differing_settings({"settings": before}, {"settings": now})


def _lasting_config(config: Mapping[str, Any]) -> dict[str, str]:
    return {k: str(v) for k, v in config.items() if k not in {"resume", "device"}}
