"""The calibration as an entry of model files, of detectors and of exports."""

from dataclasses import asdict
from typing import Any, Final

from efficientad.method.decision import Calibration
from efficientad.method.maps import MapScale

# Before the maps of a calibration had names, its scales had these.
_OLD_SCALES: Final = {"local": "local_quantiles", "global": "global_quantiles"}


def calibration_entry(calibration: Calibration) -> dict[str, Any]:
    """Return a calibration as JSON knows it."""
    return asdict(calibration)


def read_calibration(entry: Any) -> Calibration:
    """Return the calibration of an entry.

    Args:
        entry: What JSON holds, not checked yet.

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
    )
