"""The things a part consists of and its defects, as values; nothing is drawn here.

A steel plate with holes carries two zinc screws on its left, two black ones on its
right, a label and a brass washer. Each defect turns a normal part into another value.
Structural defects change a surface, logical ones the arrangement: each screw, washer
and label is as it should be, but not where it should be.

Lengths are in 1/256 of the image's width. Positions are relative to the middle of the
plate, to the right and down. Angles are in radians.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

Point: TypeAlias = tuple[float, float]
ScrewKind: TypeAlias = Literal["zinc", "black"]

DefectType: TypeAlias = Literal[
    "scratch", "stain", "dent", "chip", "missing", "surplus", "swapped"
]
DEFECT_TYPES: Final[tuple[DefectType, ...]] = get_args(DefectType)
"""Structural ones first."""

PLATE_HALF: Final = (99.0, 77.0)
PLATE_CORNER: Final = 13.0
PLATE_THICKNESS: Final = 6.0

SCREW_PLACES: Final[tuple[Point, ...]] = ((-79, -56), (-79, 56), (79, -56), (79, 56))
SCREW_RADIUS: Final = 11.5
OPEN_HOLES: Final[tuple[Point, ...]] = ((-32, -53), (0, -53), (32, -53))
HOLE_RADIUS: Final = 7.0
SLOT: Final[Point] = (0, 53)
SLOT_HALF: Final = (33.0, HOLE_RADIUS)
LABEL_PLACE: Final[Point] = (-38, 0)
LABEL_HALF: Final = (32.0, 21.0)
WASHER_PLACE: Final[Point] = (46, 0)
WASHER_RADIUS: Final = 20.0
WASHER_HOLE: Final = 9.5

HOLES: Final[tuple[tuple[Point, Point], ...]] = (
    *(
        (at, (HOLE_RADIUS, HOLE_RADIUS))
        for at in (*OPEN_HOLES, *SCREW_PLACES, WASHER_PLACE)
    ),
    (SLOT, SLOT_HALF),
)
"""Middle and half size of all holes; their corners have the radius of a hole."""

# Tolerances of the assembly.
_MAX_SHIFT: Final = 0.8
_MAX_LABEL_TURN: Final = 0.03

_N_WAVES: Final = 5
_N_CURVE_POINTS: Final = 12
_MIN_BARE_SHARE: Final = 0.75
_HALF: Final = 0.5


class Screw(NamedTuple):
    """A screw; `turn` is that of its drive."""

    at: Point
    kind: ScrewKind
    turn: float


class Curve(NamedTuple):
    """A bent line, quadratic Bézier; its strength is from 0 to 1."""

    start: Point
    bend: Point
    end: Point
    width: float
    strength: float


class Blob(NamedTuple):
    """A round shape with a wavy border; its strength is from 0 to 1."""

    at: Point
    radius: float
    stretch: float
    """Length divided by width."""
    turn: float
    waves: tuple[tuple[float, float], ...]
    """Size and phase of the border's waves: two a turn, three a turn, ..."""
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part. What is None does not exist."""

    screws: tuple[Screw, ...]
    washer: Point | None
    label: Point | None
    label_turn: float = 0.0
    scratch: Curve | None = None
    stain: Blob | None = None
    dent: Blob | None = None
    chip: Blob | None = None


Fault: TypeAlias = Callable[[Part, np.random.Generator], Part]


def normal_part(rng: np.random.Generator) -> Part:
    """Return a part without a defect; no two are quite alike."""
    kinds: tuple[ScrewKind, ...] = ("zinc", "zinc", "black", "black")
    return Part(
        screws=tuple(
            Screw(at, kind, rng.uniform(0, 2 * np.pi))
            for at, kind in zip(SCREW_PLACES, kinds, strict=True)
        ),
        washer=_near(WASHER_PLACE, rng),
        label=_near(LABEL_PLACE, rng),
        label_turn=rng.uniform(-_MAX_LABEL_TURN, _MAX_LABEL_TURN),
    )


def is_bare(at: Point, margin: float) -> bool:
    """Return whether there is only bare plate around a point of a normal part."""
    u, v = at
    if abs(u) > PLATE_HALF[0] - margin or abs(v) > PLATE_HALF[1] - margin:
        return False
    discs = [
        *((place, SCREW_RADIUS) for place in SCREW_PLACES),
        *((place, HOLE_RADIUS) for place in OPEN_HOLES),
        (WASHER_PLACE, WASHER_RADIUS),
    ]
    boxes = [(LABEL_PLACE, LABEL_HALF), (SLOT, SLOT_HALF)]
    return not (
        any(np.hypot(u - x, v - y) < radius + margin for (x, y), radius in discs)
        or any(
            abs(u - x) < a + margin and abs(v - y) < b + margin
            for (x, y), (a, b) in boxes
        )
    )


def curve_points(curve: Curve, n_points: int) -> list[Point]:
    """Return points along a curve, from start to end."""
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
        bend = middle + rng.uniform(-10, 10) * across
        curve = Curve(
            _point(middle - half),
            _point(bend),
            _point(middle + half),
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
        hole, angle = OPEN_HOLES[rng.integers(len(OPEN_HOLES))], rng.uniform(0, 7)
        rim = HOLE_RADIUS * np.array([np.cos(angle), np.sin(angle)])
        at = _point(np.array(hole) + rim)
    radius = rng.uniform(4, 6) if kind == 2 else rng.uniform(5, 9)  # noqa: PLR2004
    return replace(part, chip=_blob(at, radius, rng))


def _incomplete(part: Part, rng: np.random.Generator) -> Part:
    missing = rng.integers(len(part.screws) + 1)
    if missing == len(part.screws):
        return replace(part, washer=None)
    others = (screw for k, screw in enumerate(part.screws) if k != missing)
    return replace(part, screws=tuple(others))


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
    for k, other in ((first, second), (second, first)):
        screws[k] = part.screws[k]._replace(kind=part.screws[other].kind)
    return replace(part, screws=tuple(screws))


DEFECTS: Final[dict[DefectType, Fault]] = {
    "scratch": _scratched,
    "stain": _stained,
    "dent": _dented,
    "chip": _chipped,
    "missing": _incomplete,
    "surplus": _overfull,
    "swapped": _mixed_up,
}
"""Functions that return a normal part with a defect of random place and strength."""


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
        waves=tuple(zip(sizes.tolist(), phases.tolist(), strict=True)),
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


def _point(at: np.ndarray) -> Point:
    return float(at[0]), float(at[1])


def _near(place: Point, rng: np.random.Generator) -> Point:
    return _point(place + rng.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2))
