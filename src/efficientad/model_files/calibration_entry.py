"""The calibration in detector files and exports: its fields as a JSON object."""

from collections.abc import Set as AbstractSet
from typing import Any, Final

from efficientad.errors import ConfigError
from efficientad.method.composition import COMPOSITION
from efficientad.method.decision import Calibration, TermScale
from efficientad.method.maps import MapScale
from efficientad.model_files.provenance_entry import is_number

# Names of the scales in files that were written before the maps had names.
_OLD_SCALES: Final = {"local": "local_quantiles", "global": "global_quantiles"}
_TERMS: Final = frozenset({COMPOSITION})


def read_calibration(
    entry: Any,
    *,
    maps: AbstractSet[str] = _OLD_SCALES.keys(),
    terms: AbstractSet[str] = _TERMS,
) -> Calibration:
    """Return the calibration of an entry, an unchecked JSON value.

    `Calibration` and the scales check the types and ranges of their own fields.

    Args:
        entry: JSON value.
        maps: Names of the maps that must have a scale. Default: a detector's.
        terms: Names of the terms that the score may have. Default: a detector's.

    Raises:
        KeyError, TypeError, ValueError: If the entry is incomplete or wrong.
    """
    if "scales" in entry:
        scales = dict(entry["scales"])
    else:
        scales = {name: entry[old] for name, old in _OLD_SCALES.items()}
    given = dict(entry.get("terms", {}))
    if scales.keys() != maps or not given.keys() <= terms:
        raise ConfigError(f"scales of {[*scales]} and terms of {[*given]}")
    return Calibration(
        scales={name: MapScale(**scale) for name, scale in scales.items()},
        normal_scores=tuple(entry["normal_scores"]),
        false_alarm_budget=entry["false_alarm_budget"],
        given_threshold=entry["given_threshold"],
        terms={name: TermScale(**term) for name, term in given.items()},
        training_scores=tuple(entry.get("training_scores", ())),
        threshold_rule=entry.get("threshold_rule", "rank"),
        second_session={
            kind: tuple(map(_number, scores))
            for kind, scores in dict(entry.get("second_session", {})).items()
        },
        score_has_map=entry.get("score_has_map", True),
    )


def _number(value: Any) -> float:
    if not is_number(value):
        raise TypeError(f"{value!r} is no number")
    return float(value)
