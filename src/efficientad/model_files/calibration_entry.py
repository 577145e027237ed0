"""The calibration in detector files and exports: its fields as a JSON object."""

from typing import Any, Final, get_args

from efficientad.errors import ConfigError
from efficientad.method.composition import COMPOSITION
from efficientad.method.decision import Calibration, TermScale, ThresholdRule
from efficientad.method.maps import MapScale
from efficientad.model_files.provenance_entry import is_number

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
    terms = dict(entry.get("terms", {}))
    if scales.keys() != _OLD_SCALES.keys() or not terms.keys() <= {COMPOSITION}:
        raise ConfigError(f"scales of {[*scales]} and terms of {[*terms]}")
    rule = entry.get("threshold_rule", "rank")
    if rule not in get_args(ThresholdRule):
        raise ConfigError(f"threshold_rule {rule!r}")
    given = entry["given_threshold"]
    return Calibration(
        scales={name: MapScale(**_numbers(scale)) for name, scale in scales.items()},
        normal_scores=_scores(entry["normal_scores"]),
        false_alarm_budget=_number(entry["false_alarm_budget"]),
        given_threshold=None if given is None else _number(given),
        terms={name: TermScale(**_numbers(term)) for name, term in terms.items()},
        training_scores=_scores(entry.get("training_scores", [])),
        threshold_rule=rule,
        second_session={
            kind: _scores(scores)
            for kind, scores in dict(entry.get("second_session", {})).items()
        },
    )


def _scores(values: Any) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)


def _numbers(values: Any) -> dict[str, Any]:
    """Return a table of numbers, some of them missing."""
    return {k: None if v is None else _number(v) for k, v in dict(values).items()}


def _number(value: Any) -> float:
    if not is_number(value):
        raise TypeError(f"{value!r} is no number")
    return float(value)
