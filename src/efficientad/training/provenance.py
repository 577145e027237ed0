"""Provenance of a detector, and the detector that a training would make again."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from efficientad.calibration.normal_images import NormalImages
from efficientad.decisions.rule import Rule
from efficientad.images.appearance import appearances
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.tiling import whole_views
from efficientad.model_files.json_text import from_json, to_json
from efficientad.model_files.teachers import Teacher
from efficientad.natural_images.pictures import PretrainingImages
from efficientad.training.config import Recipe, TrainConfig

_BUDGETS = ("false_alarm_budget", "unsure_budget")
_IMAGES = ("training_images", "validation_images")

logger = logging.getLogger(__name__)


def provenance_of(
    config: TrainConfig,
    recipe: Recipe,
    teacher: Teacher,
    training: NormalImages,
    validation: NormalImages,
    pretraining_images: PretrainingImages | None,
) -> dict[str, Any]:
    """Return the part of a detector's provenance that is known before its training.

    Raises:
        ConfigError: If a setting is of a type that the detector's file cannot hold.
    """
    facts = {
        "config": asdict(config),
        "recipe": asdict(recipe),
        "preset": recipe.preset,
        "seed": config.seed,
        "teacher": {"hash": teacher.file_hash, **teacher.provenance},
        "pretraining_images": pretraining_images and pretraining_images.description(),
        "pretraining_hash": pretraining_images and pretraining_images.fingerprint(),
        "training_images": training.hash_of_name,
        "validation_images": validation.hash_of_name,
        "validation_appearance": appearances(whole_views(validation.pixels)),
    }
    return from_json(to_json(facts))  # now, not after hours


def finished_detector(
    path: Path,
    config: TrainConfig,
    provenance: dict[str, Any],
    rule: Rule,
    training: NormalImages,
) -> Predictor | None:
    """Return the predictor of a file if a training would make the same one again.

    It is None if there is no file, or a detector of other settings or images.

    Raises:
        ModelFileError: If the file cannot be used.
    """
    if not path.exists():
        return None
    predictor = load(path, device=config.device)
    found = predictor.calibration.rule, predictor.preparation
    expected = rule, training.preparation
    if (found, _decisive(predictor.provenance)) != (expected, _decisive(provenance)):
        return None
    logger.info("%s is finished: made of these images with these settings", path)
    return predictor


def _decisive(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that change the result; paths of images do not."""
    names = ("recipe", "seed", "pretraining_hash")
    return {
        **{name: provenance.get(name) for name in names},
        "teacher": provenance.get("teacher", {}).get("hash"),
        **{name: provenance.get("config", {}).get(name) for name in _BUDGETS},
        **{name: [*provenance.get(name, {}).values()] for name in _IMAGES},
    }
