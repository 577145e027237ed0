"""Calibration: scales of maps and scores, measured on normal images by any engine.

The images must not have been used for training: on those the student is too good, and
every later map would look anomalous. No torch here.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efficientad.datasets import normal_image_paths, require_disjoint
from efficientad.engines.engine import Engine, EngineOutput
from efficientad.errors import ConfigError, DatasetError
from efficientad.images.appearance import appearances
from efficientad.images.rgb import ImageLike
from efficientad.inspection.predictor import Predictor
from efficientad.method.decision import Calibration
from efficientad.method.maps import (
    Grids,
    MapScale,
    combine_maps,
    divide_by_level,
    fit_quantiles,
    image_scores,
    map_levels,
    normalize_maps,
)
from efficientad.training.normal_images import (
    Pixels,
    read_normal_images,
    without_duplicates,
)
from efficientad.training.progress import Progress

Fit = Callable[[Iterable[NDArray[np.float32]]], MapScale]

_BATCH_SIZE = 4


def calibrate(
    predictor: Predictor,
    images: Path | str | Sequence[ImageLike],
    *,
    false_alarm_budget: float = 0.01,
    threshold: float | None = None,
) -> Predictor:
    """Return a predictor that is calibrated on other normal images.

    Args:
        predictor: Trained model; its networks stay.
        images: Normal images or their folder, none of them trained on. Copies of an
            image count once.
        false_alarm_budget: Share of normal images that may be flagged, in (0, 1).
        threshold: Decision threshold set by hand. None: derived from the images.

    Raises:
        DatasetError: If there are no images, or if some were trained on.
        ConfigError: If the predictor runs an export, whose graph holds its own scales.
    """
    if predictor.detector is None:
        raise ConfigError(
            "calibration needs a detector file, got an exported model; calibrate the "
            ".ead file and export it again, or use threshold with --images"
        )
    if isinstance(images, (str, Path)):
        images, _ = normal_image_paths(Path(images), min_images=1)
    normal = without_duplicates(read_normal_images(images))
    trained_on = predictor.provenance.get("training_images", {})
    require_disjoint(normal.hash_of_name, trained_on)
    recipe = predictor.provenance.get("recipe", {})
    recipe = {**recipe, **(recipe.get("quick") or {})}  # earlier files: a part apart
    calibration = fit_calibration(
        predictor.engine,
        normal.pixels,
        false_alarm_budget=false_alarm_budget,
        divides_by_level=recipe.get("divides_by_level", False),
    )
    return replace(
        predictor,
        calibration=replace(calibration, given_threshold=threshold),
        provenance={
            **predictor.provenance,
            "validation_images": normal.hash_of_name,
            "validation_appearance": appearances(normal.pixels),
        },
    )


def fit_calibration(
    engine: Engine,
    pixels: Pixels,
    *,
    false_alarm_budget: float = 0.01,
    fit: Fit = fit_quantiles,
    divides_by_level: bool = False,
) -> Calibration:
    """Measure scales of maps and scores on normal images.

    Args:
        engine: Engine of a trained detector.
        pixels: Normal images outside the training set, (n, 256, 256, 3), RGB.
        false_alarm_budget: Share of normal images that may be flagged, in (0, 1).
        fit: Function from the raw maps of one kind to their scale. Default: the paper's
            quantiles.
        divides_by_level: Whether each raw map is divided by its own level first.

    Raises:
        DatasetError: If there are no images.
    """
    if len(pixels) == 0:
        raise DatasetError("calibration needs normal images outside the training set")
    raw = raw_grids(engine, pixels)
    scales = {
        name: _scale(grids, fit, divides_by_level=divides_by_level)
        for name, grids in raw.items()
    }
    scores = image_scores(combine_maps(normalize_maps(raw, scales)))
    return Calibration(scales, tuple(sorted(scores.tolist())), false_alarm_budget)


def raw_grids(engine: Engine, pixels: Pixels) -> dict[str, Grids]:
    """Return the raw maps of many images by name, (n, rows, columns)."""
    found: list[EngineOutput] = []
    with closing(Progress(len(pixels), "image", task="calibration")) as progress:
        for start in range(0, len(pixels), _BATCH_SIZE):
            batch = pixels[start : start + _BATCH_SIZE]
            found.append(engine.run(batch))
            progress.update(start + len(batch))
    names = found[0].grids
    return {name: np.concatenate([f.grids[name] for f in found]) for name in names}


def _scale(raw: Grids, fit: Fit, *, divides_by_level: bool) -> MapScale:
    if not divides_by_level:
        return fit(raw)
    # Deviation: the paper compares images whose maps lie at different levels as they
    # are. An image's score is its highest pixel, so one that is harder to predict as a
    # whole, by its texture, light or angle, looks anomalous.
    levels = map_levels(raw)
    least, greatest = float(levels.min()), float(levels.max())
    scale = fit(divide_by_level(raw, least, greatest))
    return replace(scale, least_level=least, greatest_level=greatest)
