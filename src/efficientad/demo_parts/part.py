"""What a part consists of, as values: nothing is drawn here.

A steel plate with holes carries two zinc screws on its left, two black ones on its
right, a label and a brass washer. Lengths are in 1/256 of the image's width, positions
are from the middle of the plate, to the right and down.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np

Point: TypeAlias = tuple[float, float]
ScrewKind: TypeAlias = Literal["zinc", "black"]

PLATE_HALF: Final = (99.0, 77.0)
PLATE_CORNER: Final = 13.0
PLATE_THICKNESS: Final = 6.0

SCREW_PLACES: Final[tuple[Point, ...]] = ((-79, -56), (-79, 56), (79, -56), (79, 56))
SCREW_RADIUS: Final = 11.5
OPEN_HOLES: Final[tuple[Point, ...]] = ((-32, -53), (0, -53), (32, -53))
HOLE_RADIUS: Final = 7.0
SLOT: Final[Point] = (0, 53)
SLOT_HALF: Final = 26.0
LABEL_PLACE: Final[Point] = (-38, 0)
LABEL_HALF: Final = (32.0, 21.0)
WASHER_PLACE: Final[Point] = (46, 0)
WASHER_RADIUS: Final = 20.0
WASHER_HOLE: Final = 9.5

# How exactly the parts are put together.
_MAX_SHIFT: Final = 0.8
_MAX_LABEL_TURN: Final = 0.03


class Screw(NamedTuple):
    """A screw from above."""

    at: Point
    kind: ScrewKind
    turn: float
    """Of its drive, radians."""


class Curve(NamedTuple):
    """A bent line, quadratic Bézier."""

    start: Point
    bend: Point
    end: Point
    width: float
    strength: float
    """From 0 to 1."""


class Blob(NamedTuple):
    """A round shape with a wavy border."""

    at: Point
    radius: float
    stretch: float
    """Its length over its width."""
    turn: float
    """Radians."""
    waves: tuple[tuple[float, float], ...]
    """Size and phase of the border's waves: two a turn, three a turn, ..."""
    strength: float
    """From 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part. What is None is not there."""

    screws: tuple[Screw, ...]
    washer: Point | None
    label: Point | None
    label_turn: float = 0.0
    scratch: Curve | None = None
    stain: Blob | None = None
    dent: Blob | None = None
    chip: Blob | None = None


def normal_part(rng: np.random.Generator) -> Part:
    """Put a part together as it ought to be; no two are quite alike."""
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
    """Tell whether there is bare plate around a point, on a normal part."""
    u, v = at
    half_width, half_height = PLATE_HALF
    if abs(u) > half_width - margin or abs(v) > half_height - margin:
        return False
    discs = [
        *((place, SCREW_RADIUS) for place in SCREW_PLACES),
        *((place, HOLE_RADIUS) for place in OPEN_HOLES),
        (WASHER_PLACE, WASHER_RADIUS),
    ]
    if any(np.hypot(u - x, v - y) < radius + margin for (x, y), radius in discs):
        return False
    boxes = [(LABEL_PLACE, LABEL_HALF), (SLOT, (SLOT_HALF + HOLE_RADIUS, HOLE_RADIUS))]
    return not any(
        abs(u - x) < a + margin and abs(v - y) < b + margin for (x, y), (a, b) in boxes
    )


def _near(place: Point, rng: np.random.Generator) -> Point:
    x, y = rng.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2)
    return float(place[0] + x), float(place[1] + y)
