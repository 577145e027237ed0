"""Calibration and preparation in detector files and exports, as JSON."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from typing import Any, Final

from efficientad.decisions.decision import Calibration, TermScale
from efficientad.decisions.rule import Rule
from efficientad.errors import ConfigError
from efficientad.images.alignment import Alignment
from efficientad.images.preparation import AS_IT_IS, Preparation
from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.composition import COMPOSITION
from efficientad.method.maps import MapScale
from efficientad.method.placement import MAX_SIDE
from efficientad.method.sizes import PATCH_STRIDE
from efficientad.settings import checked

# Names of the scales in files that were written before the maps had names.
_OLD_SCALES: Final = {"local": "local_quantiles", "global": "global_quantiles"}
_TERMS: Final = frozenset({COMPOSITION})
_LATER: Final = ("rule", "unsure_budget", "score_has_map")
"""Fields that programs in other languages may not know."""
_PLAIN: Final = Calibration({"": MapScale(0.0, 1.0)}, (0.0,))


def calibration_entry(calibration: Calibration) -> dict[str, Any]:
    """Return the entry of a calibration, without a rule that it does not have."""
    entry = asdict(calibration)
    for name in _LATER:
        if entry[name] == asdict(_PLAIN)[name]:
            del entry[name]
    for scale in entry["scales"].values():
        if scale["places"] is None:
            del scale["places"]
    return entry


def has_later_entries(calibration: Calibration) -> bool:
    """Return whether map, threshold and terms alone do not make the decision."""
    return any(name in calibration_entry(calibration) for name in _LATER)


def preparation_entries(preparation: Preparation) -> dict[str, Any]:
    """Return the entries of tiles, alignment and levels, of those that there are."""
    entries: dict[str, Any] = {}
    if preparation.size != AS_IT_IS.size:
        entries["tiled_input_size"] = list(preparation.size)
    if preparation.alignment is not None:
        entries["alignment"] = asdict(preparation.alignment)
    if preparation.levels is not None:
        entries["levels"] = list(preparation.levels)
    return entries


def read_preparation(content: Mapping[str, Any]) -> Preparation:
    """Return the preparation of a file's content, an unchecked JSON value.

    Raises:
        TypeError, ValueError: If one is wrong.
    """
    height, width = content.get("tiled_input_size", AS_IT_IS.size)
    for n in (height, width):
        if type(n) is not int or n % PATCH_STRIDE or not INPUT_SIZE <= n <= MAX_SIDE:
            raise ConfigError(f"input size {content['tiled_input_size']!r}")
    alignment = Alignment(**content["alignment"]) if "alignment" in content else None
    levels = content.get("levels")
    if levels is not None:
        low, high = levels
        levels = (low, high)
    return Preparation((height, width), alignment, levels)


def read_calibration(
    entry: Any,
    *,
    maps: AbstractSet[str] = _OLD_SCALES.keys(),
    terms: AbstractSet[str] = _TERMS,
) -> Calibration:
    """Return the calibration of an entry, an unchecked JSON value.

    `Calibration` and the scales check the types and ranges of their own fields. All of
    these maps must have a scale, and the score may have these terms.

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
            kind: tuple(checked(kind, score, float) for score in scores)
            for kind, scores in dict(entry.get("second_session", {})).items()
        },
        rule=Rule(**entry.get("rule", {})),
        unsure_budget=entry.get("unsure_budget"),
        score_has_map=entry.get("score_has_map", True),
    )
