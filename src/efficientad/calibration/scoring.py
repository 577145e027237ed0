"""Outputs and scores of normal images by any engine. Neither scipy nor torch here."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from efficientad.calibration.normal_images import Pixels
from efficientad.calibration.second_session import SecondSession
from efficientad.decisions.decision import Calibration
from efficientad.decisions.rule import ANYWHERE, Rule
from efficientad.engines.engine import Engine, EngineOutput
from efficientad.images.alignment import Alignment
from efficientad.inspection.predictor import finite_grids
from efficientad.inspection.tiling import run
from efficientad.progress import with_progress

_BATCH_SIZE: Final = 4


def outputs(
    engine: Engine,
    pixels: Pixels | SecondSession,
    rule: Rule = ANYWHERE,
    task: str = "calibration",
) -> EngineOutput:
    """Return the output of an engine for many images, (n, height, width, 3)."""
    starts = range(0, len(pixels), _BATCH_SIZE)
    batches = (pixels[start : start + _BATCH_SIZE] for start in starts)
    tracked = with_progress(batches, len(pixels), task)
    return joined([run(engine, batch, rule) for batch in tracked])


def joined(found: Sequence[EngineOutput]) -> EngineOutput:
    """Return outputs for several batches as one, with the values that all have."""
    first = found[0]
    names = [name for name in first.values if all(name in f.values for f in found)]
    return EngineOutput(
        {name: np.concatenate([f.grids[name] for f in found]) for name in first.grids},
        {name: np.concatenate([f.values[name] for f in found]) for name in names},
    )


def scores(calibration: Calibration, output: EngineOutput) -> NDArray[np.float32]:
    """Return the image scores of an engine's output, (n,).

    Raises:
        ModelFileError: If a grid is not finite.
    """
    grids = finite_grids(calibration, output)
    return calibration.scores(grids, output.values)[0]


def with_normal_scores(
    calibration: Calibration,
    engine: Engine,
    pixels: Pixels,
    alignment: Alignment | None = None,
) -> Calibration:
    """Return a calibration with the scores of other normal images; its scales stay.

    Their scores after changes replace those of a second session, if it has any.

    Args:
        calibration: Calibration of the engine, with the rule of the scores.
        engine: Engine of a trained detector.
        pixels: The images, (n, height, width, 3), RGB.
        alignment: Reference that changed images are aligned with.
    """
    own = scores(calibration, outputs(engine, pixels, calibration.rule))
    found = replace(
        calibration,
        normal_scores=tuple(sorted(own.tolist())),
        training_scores=(),
        second_session={},
    )
    if not calibration.second_session:
        return found
    changed = SecondSession(pixels, alignment)
    session = outputs(engine, changed, calibration.rule, "second session")
    derived = replace(found, given_threshold=None)
    by_kind = session_scores(derived, own, changed, session)
    return replace(found, second_session=by_kind)


def session_scores(
    calibration: Calibration,
    own: NDArray[np.float32],
    changed: SecondSession,
    session: EngineOutput,
) -> dict[str, tuple[float, ...]]:
    """Return the scores of changed images by the kind of change.

    An image that is flagged as it is says nothing about a change.
    """
    counts = (own <= calibration.threshold)[changed.origins]
    by_case = scores(calibration, session).reshape(counts.shape)
    by_kind = {}
    for kind in dict.fromkeys(changed.kinds.tolist()):
        those = changed.kinds == kind
        of_kind, counted = by_case[those], by_case[those][counts[those]]
        by_kind[kind] = tuple((counted if counted.size else of_kind.ravel()).tolist())
    return by_kind
