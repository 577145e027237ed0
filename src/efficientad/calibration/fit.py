"""Calibration: scales of maps and scores, measured on normal images by any engine.

The images must not have been used for training: on those the student is too good, and
every later map would look anomalous. No torch here.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from efficientad.calibration.normal_images import Pixels
from efficientad.calibration.scoring import joined, outputs, scores, session_scores
from efficientad.calibration.second_session import SecondSession
from efficientad.decisions.budget import DEFAULT_BUDGET
from efficientad.decisions.decision import Calibration, TermScale
from efficientad.decisions.rule import ANYWHERE, Rule
from efficientad.engines.engine import Engine, EngineOutput
from efficientad.errors import DatasetError
from efficientad.images.alignment import Alignment
from efficientad.method.composition import COMPOSITION
from efficientad.method.maps import (
    Grids,
    MapScale,
    divide_by_level,
    fit_quantiles,
    map_levels,
)
from efficientad.method.places import levels_of_places, place_levels
from efficientad.method.sizes import GRID_SIZE

logger = logging.getLogger(__name__)

Fit = Callable[..., MapScale]
"""Function of raw maps, and of the pixels `inside` that count, to their scale."""

_LEVEL_OF_DIFFERENCE: Final = 0.05
_WEIGHTS: Final = (1.0, 0.75, 0.5, 0.25)
"""Weights that an image-level term may get, relative to the maps."""
_MORE_ALARMS: Final = 2
"""False alarms in a second session that a term may add to those of the maps alone, as a
multiple of the budget."""
_MIDDLE: Final = (0.1587, 0.8413)
_ODD: Final = 0.2
"""Share of the threshold that a single normal image may decide without a warning."""


def fit_calibration(  # noqa: PLR0913 - a keyword for each property
    engine: Engine,
    pixels: Pixels,
    *,
    false_alarm_budget: float = DEFAULT_BUDGET,
    fit: Fit = fit_quantiles,
    divides_by_level: bool = False,
    training: EngineOutput | None = None,
    places: Mapping[str, str | None] | None = None,
    names: Sequence[str] = (),
    rule: Rule = ANYWHERE,
    alignment: Alignment | None = None,
) -> Calibration:
    """Measure scales of maps and terms, and scores, on normal images.

    Args:
        engine: Engine of a trained detector.
        pixels: Normal images outside the training set, (n, height, width, 3), RGB.
        false_alarm_budget: Share of normal images that may be flagged, in (0, 1).
        fit: Function from the raw maps of one kind to their scale. Default: the paper's
            quantiles.
        divides_by_level: Whether each raw map is divided by its own level first.
        training: Output for training images, with cross-fitted image-level values.
            None: only the held-out images count.
        places: Levels of places of each map by its name, where `training` gives none.
        names: Names of the held-out images, for warnings. Empty: there are none.
        rule: Region of interest and least area of a defect.
        alignment: Reference that images of a second session are aligned with.

    Raises:
        DatasetError: If there are no images.
    """
    if len(pixels) == 0:
        raise DatasetError("calibration needs normal images outside the training set")
    held_out = outputs(engine, pixels, rule)
    scales = {
        name: _levelled(
            grids,
            fit,
            rule,
            training=None if training is None else training.grids[name],
            places=(places or {}).get(name),
        )
        if divides_by_level
        else fit(grids, inside=rule.inside(*grids.shape[1:]))
        for name, grids in held_out.grids.items()
    }
    changed = SecondSession(pixels, alignment)
    session = outputs(engine, changed, rule, "second session")
    blank = Calibration(
        scales, (0.0,), false_alarm_budget, threshold_rule="estimate", rule=rule
    )
    found = _with_scores(blank, held_out, training)
    # The composition is that of the whole image, whatever the region of interest.
    if COMPOSITION in held_out.values and not rule.region_of_interest:
        found = _with_composition(found, held_out, training, session)
    own = scores(found, held_out)
    for name, score in zip(names, own.tolist(), strict=False):
        _warn_if_odd(found, name, score)
    by_kind = session_scores(found, own, changed, session)
    return replace(found, second_session=by_kind, threshold_rule="steady")


# Deviation: the paper's score is the maximum of the combined map alone.
def _with_composition(
    alone: Calibration,
    held_out: EngineOutput,
    training: EngineOutput | None,
    session: EngineOutput,
) -> Calibration:
    """Return the calibration of the maps alone with the composition in its scores.

    The composition gets the largest weight with which a second session gives few more
    false alarms than the maps alone. No defect is needed for this.
    """
    normal = held_out if training is None else joined([held_out, training])
    limit = float(np.mean(scores(alone, session) > alone.threshold))
    limit += _MORE_ALARMS * alone.false_alarm_budget
    scale = _term_scale(alone, normal)
    for weight in _WEIGHTS:
        term = replace(scale, slope=weight * scale.slope)
        weighted = replace(alone, terms={COMPOSITION: term})
        found = _with_scores(weighted, held_out, training)
        if np.mean(scores(found, session) > found.threshold) <= limit:
            return found
    return alone


def _with_scores(
    calibration: Calibration, held_out: EngineOutput, training: EngineOutput | None
) -> Calibration:
    """Return a calibration with its normal scores.

    Scores of training images count if they are like those of held-out images, by the
    test of Mann and Whitney: then the student has not learned them by heart.
    """
    own = scores(calibration, held_out)
    trained = np.empty(0, np.float32)
    if training is not None:
        trained = scores(calibration, training)
        if mannwhitneyu(own, trained).pvalue < _LEVEL_OF_DIFFERENCE:
            trained = trained[:0]
    return replace(
        calibration,
        normal_scores=tuple(sorted(own.tolist())),
        training_scores=tuple(sorted(trained.tolist())),
    )


def _warn_if_odd(calibration: Calibration, name: str, score: float) -> None:
    """Warn of a held-out image that alone moves the threshold much."""
    with_it = calibration.threshold
    others = list(calibration.normal_scores)
    if score <= with_it / 2 or len(others) == 1:
        return
    others.remove(score)
    without = replace(calibration, normal_scores=tuple(others)).threshold
    if without < (1 - _ODD) * with_it:
        logger.warning(
            "%s has the score %.3g; without it the threshold falls from %.3g to %.3g; "
            "look at it, and leave it out if it does not show a normal part",
            name,
            score,
            with_it,
            without,
        )


def _term_scale(alone: Calibration, normal: EngineOutput) -> TermScale:
    """Return the scale that gives a term the deviation of the maps' scores."""
    values = normal.values[COMPOSITION][:, 0].astype(np.float64)
    of_maps, deviation = _deviation(scores(alone, normal)), _deviation(values)
    slope = of_maps / deviation if deviation > 0 else 0.0
    return TermScale(float(values.mean()), slope)


def _deviation(values: NDArray[np.floating[Any]]) -> float:
    """Return half the width of the middle 68 %, which a few odd images do not move.

    It is the standard deviation of normally distributed values.
    """
    low, high = np.quantile(values, _MIDDLE)
    return float(high - low) / 2


def _levelled(
    raw: Grids, fit: Fit, rule: Rule, *, training: Grids | None, places: str | None
) -> MapScale:
    """Return the scale of maps that are divided by their levels first."""
    # Deviation: the paper compares images whose maps lie at different levels as they
    # are. An image's score is its highest pixel, so one that is harder to predict as a
    # whole, by its texture, light or angle, looks anomalous.
    shape = raw.shape[1:]
    cells = rule.cells(*shape)
    levels = map_levels(raw, cells)
    least, greatest = float(levels.min()), float(levels.max())
    divided = divide_by_level(raw, least, greatest, cells)
    # Deviation: the paper compares the places of a map as they are. Tiles show print
    # and edges in full, which stay harder to predict than the rest.
    if training is not None and shape != (GRID_SIZE, GRID_SIZE):
        places = place_levels(divide_by_level(training, least, greatest, cells))
    if places is not None:
        divided = divided / levels_of_places(places, *shape)
    scale = fit(divided, inside=rule.inside(*shape))
    return replace(scale, least_level=least, greatest_level=greatest, places=places)
