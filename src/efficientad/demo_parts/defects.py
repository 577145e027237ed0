"""What can be wrong with a part: each defect turns a normal part into another value.

Structural defects change a surface, logical ones the arrangement: there each screw,
washer and label is as it ought to be, only not where it ought to be.
"""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

import numpy as np

from efficientad.demo_parts.part import (
    HOLE_RADIUS,
    LABEL_PLACE,
    OPEN_HOLES,
    PLATE_HALF,
    WASHER_PLACE,
    Blob,
    Curve,
    Part,
    Point,
    Screw,
    is_bare,
)

DefectType: TypeAlias = Literal[
    "scratch", "stain", "dent", "chip", "missing", "surplus", "swapped"
]
DEFECT_TYPES: Final[tuple[DefectType, ...]] = get_args(DefectType)
"""Structural ones first."""

_N_WAVES: Final = 5
_N_CURVE_POINTS: Final = 12
_MIN_BARE_SHARE: Final = 0.75
_HALF: Final = 0.5


def with_defect(part: Part, defect_type: DefectType, rng: np.random.Generator) -> Part:
    """Give a normal part one defect, of random place, size and strength."""
    return _DEFECTS[defect_type](part, rng)


def curve_points(curve: Curve, n_points: int) -> list[Point]:
    """Give points along a curve, from start to end."""
    start, bend, end = (np.array(at) for at in (curve.start, curve.bend, curve.end))
    shares = np.linspace(0, 1, n_points)[:, None]
    points = (1 - shares) ** 2 * start + 2 * shares * (1 - shares) * bend
    return [(float(u), float(v)) for u, v in points + shares**2 * end]


def _scratched(part: Part, rng: np.random.Generator) -> Part:
    while True:
        middle, direction = _anywhere(rng), rng.uniform(0, np.pi)
        along = np.array([np.cos(direction), np.sin(direction)])
        across = np.array([-along[1], along[0]])
        half = rng.uniform(14, 36) * along
        start, end = middle - half, middle + half
        bend = middle + rng.uniform(-10, 10) * across
        curve = Curve(
            _point(start),
            _point(bend),
            _point(end),
            width=rng.uniform(0.8, 1.7),
            strength=rng.uniform(0.45, 1),
        )
        points = curve_points(curve, _N_CURVE_POINTS)
        if np.mean([is_bare(at, 1) for at in points]) > _MIN_BARE_SHARE:
            return replace(part, scratch=curve)


def _stained(part: Part, rng: np.random.Generator) -> Part:
    radius = rng.uniform(7, 17)
    return replace(part, stain=_blob(_bare_place(rng, radius / 2), radius, rng))


def _dented(part: Part, rng: np.random.Generator) -> Part:
    radius = rng.uniform(7, 13)
    dent = _blob(_bare_place(rng, 0.9 * radius), radius, rng, waviness=0.25)
    return replace(part, dent=dent)


def _chipped(part: Part, rng: np.random.Generator) -> Part:
    """Break a piece off an edge of the plate, or off the rim of a hole."""
    width, height = PLATE_HALF
    kind = rng.integers(3)
    along = rng.uniform(-0.45, 0.45)
    if kind == 0:
        at = (float(rng.choice([-width, width])), along * height)
    elif kind == 1:
        at = (along * width, float(rng.choice([-height, height])))
    else:
        (u, v), angle = OPEN_HOLES[rng.integers(len(OPEN_HOLES))], rng.uniform(0, 7)
        at = _point(np.array([u, v]) + HOLE_RADIUS * np.array(_unit(angle)))
    radius = rng.uniform(4, 6) if kind == 2 else rng.uniform(5, 9)  # noqa: PLR2004
    return replace(part, chip=_blob(at, radius, rng, waviness=1.0))


def _incomplete(part: Part, rng: np.random.Generator) -> Part:
    missing = rng.integers(len(part.screws) + 1)
    if missing == len(part.screws):
        return replace(part, washer=None)
    kept = (screw for k, screw in enumerate(part.screws) if k != missing)
    return replace(part, screws=tuple(kept))


def _overfull(part: Part, rng: np.random.Generator) -> Part:
    at = OPEN_HOLES[rng.integers(len(OPEN_HOLES))]
    like = part.screws[rng.integers(len(part.screws))]
    surplus = Screw(at, like.kind, rng.uniform(0, 2 * np.pi))
    return replace(part, screws=(*part.screws, surplus))


def _mixed_up(part: Part, rng: np.random.Generator) -> Part:
    """Exchange label and washer, or a zinc and a black screw."""
    if rng.random() < _HALF:
        return replace(part, label=WASHER_PLACE, washer=LABEL_PLACE)
    first, second = int(rng.integers(2)), int(rng.integers(2, 4))
    screws = list(part.screws)
    screws[first] = part.screws[first]._replace(kind=part.screws[second].kind)
    screws[second] = part.screws[second]._replace(kind=part.screws[first].kind)
    return replace(part, screws=tuple(screws))


_DEFECTS: Final = MappingProxyType[
    DefectType, Callable[[Part, np.random.Generator], Part]
](
    {
        "scratch": _scratched,
        "stain": _stained,
        "dent": _dented,
        "chip": _chipped,
        "missing": _incomplete,
        "surplus": _overfull,
        "swapped": _mixed_up,
    }
)


def _blob(
    at: Point, radius: float, rng: np.random.Generator, *, waviness: float = 1.0
) -> Blob:
    sizes = waviness * rng.uniform(0.1, 0.4, _N_WAVES) / np.arange(2, _N_WAVES + 2)
    phases = rng.uniform(0, 2 * np.pi, _N_WAVES)
    return Blob(
        at=at,
        radius=radius,
        stretch=rng.uniform(1, 1.5),
        turn=rng.uniform(0, np.pi),
        waves=tuple((float(s), float(p)) for s, p in zip(sizes, phases, strict=True)),
        strength=rng.uniform(0.45, 1),
    )


def _bare_place(rng: np.random.Generator, margin: float) -> Point:
    while True:
        at = _point(_anywhere(rng))
        if is_bare(at, margin):
            return at


def _anywhere(rng: np.random.Generator) -> np.ndarray:
    half = np.array(PLATE_HALF)
    return rng.uniform(-half, half)


def _unit(angle: float) -> Point:
    return float(np.cos(angle)), float(np.sin(angle))


def _point(at: np.ndarray) -> Point:
    return float(at[0]), float(at[1])
