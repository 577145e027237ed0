"""What a detector is made of, and whether a file holds the one made of just that."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from efficientad.method.detector import Detector
from efficientad.model_files import detector_file as model_file
from efficientad.model_files.teachers import Teacher
from efficientad.natural_images.pictures import PretrainingImages
from efficientad.training.config import Recipe, TrainConfig
from efficientad.training.normal_images import NormalImages

_IMAGES = ("training_images", "validation_images")


def origin(
    config: TrainConfig,
    recipe: Recipe,
    teacher: Teacher,
    training: NormalImages,
    validation: NormalImages,
    pretraining_images: PretrainingImages | None,
) -> dict[str, Any]:
    """Give the part of a detector's provenance that is known before its training."""
    plain = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(config).items()
    }
    return {
        "config": plain,
        "recipe": asdict(recipe),
        "preset": "paper" if recipe.quick is None else "quick",
        "seed": config.seed,
        "teacher": {"hash": teacher.file_hash, **teacher.provenance},
        "pretraining_images": pretraining_images and pretraining_images.description(),
        "training_images": training.hash_of_name,
        "validation_images": validation.hash_of_name,
    }


def finished_detector(
    path: Path, config: TrainConfig, made_of: dict[str, Any]
) -> Detector | None:
    """Read the detector that a training would make again.

    Args:
        path: Where the training would write it.
        config: Settings of the training.
        made_of: Its origin.

    Returns:
        None if there is no file, or a detector of other settings or images.

    Raises:
        ModelFileError: If the file cannot be used.
    """
    if not path.exists():
        return None
    detector = model_file.load(path, device=config.device)
    is_same = _decisive(detector.provenance) == _decisive(made_of)
    return detector if is_same else None


def _decisive(made_of: dict[str, Any]) -> dict[str, Any]:
    """Leave out what changes nothing, such as where images lie."""
    return {
        **{key: made_of.get(key) for key in ("recipe", "seed", "pretraining_images")},
        "teacher": made_of.get("teacher", {}).get("hash"),
        "budget": made_of.get("config", {}).get("false_alarm_budget"),
        **{key: [*made_of.get(key, {}).values()] for key in _IMAGES},
    }
