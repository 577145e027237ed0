"""The calibration in detector files and exports: its fields as a JSON object."""

from typing import Any, Final

from efficientad.method.decision import Calibration, TermScale
from efficientad.method.maps import MapScale

# Names of the scales in files that were written before the maps had names.
_OLD_SCALES: Final = {"local": "local_quantiles", "global": "global_quantiles"}


def read_calibration(entry: Any) -> Calibration:
    """Return the calibration of an entry, an unchecked JSON value.

    Raises:
        KeyError, TypeError, ValueError: If the entry is incomplete or wrong.
    """
    if "scales" in entry:
        scales = dict(entry["scales"])
    else:
        scales = {name: entry[old] for name, old in _OLD_SCALES.items()}
    return Calibration(
        scales={name: MapScale(**scale) for name, scale in scales.items()},
        normal_scores=tuple(entry["normal_scores"]),
        false_alarm_budget=entry["false_alarm_budget"],
        given_threshold=entry["given_threshold"],
        terms={k: TermScale(**v) for k, v in entry.get("terms", {}).items()},
        training_scores=tuple(entry.get("training_scores", ())),
        threshold_rule=entry.get("threshold_rule", "rank"),
        second_session={
            k: tuple(v) for k, v in entry.get("second_session", {}).items()
        },
    )
