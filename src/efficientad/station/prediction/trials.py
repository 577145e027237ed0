"""Trials: stored images, predicted again by a model that does not count yet."""

import time
from collections.abc import Sequence
from typing import Any, Final

from efficientad.station.errors import UnavailableError
from efficientad.station.prediction.inspector import Found, Job
from efficientad.station.prediction.pipeline import Station
from efficientad.station.storage.queries import Row

_PAUSE: Final = 0.01
_COUNTS: Final = (
    *("n", "n_flagged", "n_flagged_before"),
    *("n_reviewed", "n_agreeing", "n_agreeing_before"),
)
_EXPECTED: Final = {"normal": "normal", "defect": "anomalous"}


def try_model(
    station: Station, model: str, rule: str | None, parts: Sequence[Row]
) -> dict[str, Any]:
    """Return what a model, by its hash, decides on stored parts, and what was decided.

    Each image waits until the line has none. Without the number of a rule, it is the
    newest one. Parts have the `verdict` of a person, or None.

    Raises:
        UnavailableError: If the station is stopping.
        UnknownError: If there is no such model or rule.
    """
    counts = dict.fromkeys(_COUNTS, 0)
    changed: dict[str, str] = {}
    max_pixels = station.config.max_pixels
    with station.lineup.opened(model, rule) as active:
        for part in parts:
            while station.admission.n_taken:
                time.sleep(_PAUSE)
            if station.is_closing:
                raise UnavailableError("the station is stopping")
            with station.media.file(part["media_path"]) as path:
                job = Job(part["id"], (path,), active.rule, max_pixels, part["color"])
                outcome = active.inspector.submit(job, "background").result()
            decision = outcome.decision if isinstance(outcome, Found) else "undecided"
            counts["n"] += 1
            counts["n_flagged"] += decision == "anomalous"
            counts["n_flagged_before"] += part["decision"] == "anomalous"
            if decision != part["decision"]:
                changed[part["id"]] = decision
            if (wanted := _EXPECTED.get(part["verdict"])) is not None:
                counts["n_reviewed"] += 1
                counts["n_agreeing"] += decision == wanted
                counts["n_agreeing_before"] += part["decision"] == wanted
        return {**counts, "rule": active.rule.id, "changed": changed}
