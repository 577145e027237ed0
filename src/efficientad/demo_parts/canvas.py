"""Surfaces, and the shapes that are painted on them.

A shape is a signed distance for each point, negative inside, in 1/256 of the image's
width. Its border is soft over one point, and a pixel has several points, so edges are
smooth at any angle.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.demo_parts.parts import Blob, Point

Field: TypeAlias = NDArray[np.float32]
"""(rows, columns), or (rows, columns, 3) for colors: linear light, 0 to 1."""

Color: TypeAlias = tuple[float, float, float]
Window: TypeAlias = tuple[slice, slice]

SIDE: Final = 256.0
"""Width of the image in the unit of all lengths."""

OVERSAMPLING: Final = 2
"""Points along the side of a pixel."""


class Pose(NamedTuple):
    """Position of something's middle relative to the image's, and its turn, radians."""

    x: float
    y: float
    turn: float


@dataclass(frozen=True, eq=False, slots=True)
class Surface:
    """A surface that the light falls on; all fields have n rows and n columns."""

    height: Field
    """Height above the bench."""
    color: Field
    gloss: Field
    """From 0, like paper, to 1, like a mirror."""
    cover: Field
    """1 where there is something, 0 where what lies below is seen."""

    @property
    def step(self) -> float:
        """Distance of two points."""
        return SIDE / len(self.height)

    def near(self, at: Point, radius: float) -> tuple[Window, Field, Field]:
        """Return a square around a circle; a row and a column of places from `at`."""
        along = (np.arange(len(self.height), dtype=np.float32) + 0.5) * self.step
        columns, rows = (
            slice(
                max(int((middle - radius + SIDE / 2) / self.step), 0),
                max(int((middle + radius + SIDE / 2) / self.step) + 2, 0),
            )
            for middle in at
        )
        x, y = (along - np.float32(middle + SIDE / 2) for middle in at)
        return (rows, columns), x[columns], y[rows, None]

    def covered(self, distance: Field) -> Field:
        """Return the share of each point that is inside a shape, from 0 to 1."""
        share: Field = np.clip(0.5 - distance / np.float32(self.step), 0, 1)
        return share

    def lay(
        self,
        window: Window,
        cover: Field,
        height: Field | float,
        color: Field | Color,
        gloss: Field | float,
    ) -> None:
        """Paint a material where `cover` is 1, and a mixture where it is below 1."""
        for target, value in ((self.height, height), (self.gloss, gloss)):
            target[window] += cover * (np.asarray(value, np.float32) - target[window])
        colors = np.asarray(color, np.float32)
        self.color[window] += cover[..., None] * (colors - self.color[window])
        np.maximum(self.cover[window], cover, out=self.cover[window])


def placed(field: Field, pose: Pose) -> Field:
    """Return a field turned about its middle and shifted."""
    degrees, step = -float(np.rad2deg(pose.turn)), SIDE / len(field)
    planes = [
        Image.fromarray(plane).rotate(
            degrees,
            Image.Resampling.BILINEAR,
            translate=(pose.x / step, pose.y / step),  # type: ignore[arg-type]
        )
        for plane in np.moveaxis(np.atleast_3d(field), -1, 0)
    ]
    return np.stack([np.asarray(p) for p in planes], -1).reshape(field.shape)


def points_of_pixels(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Return, for each point of a pixel, its value in all pixels."""
    places = np.ndindex(OVERSAMPLING, OVERSAMPLING)
    return [values[y::OVERSAMPLING, x::OVERSAMPLING] for y, x in places]


def smooth_noise(rng: np.random.Generator, rows: int, columns: int, n: int) -> Field:
    """Return random rows and columns enlarged to n x n, about -2 to 2."""
    noise = Image.fromarray(rng.standard_normal((rows, columns), np.float32))
    return np.asarray(noise.resize((n, n), Image.Resampling.BICUBIC))


def turned_by(u: Field, v: Field, turn: float) -> tuple[Field, Field]:
    """Return coordinates relative to something that is turned."""
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return cos * u + sin * v, cos * v - sin * u


def disc(u: Field, v: Field, radius: float) -> Field:
    """Return distances to a circle."""
    distance: Field = np.sqrt(u * u + v * v) - np.float32(radius)
    return distance


def box(u: Field, v: Field, half: Point, corner: float = 0.0) -> Field:
    """Return distances to a rectangle with rounded corners."""
    a = np.abs(u) - np.float32(half[0] - corner)
    b = np.abs(v) - np.float32(half[1] - corner)
    inside = np.minimum(np.maximum(a, b), 0)
    a, b = np.maximum(a, 0), np.maximum(b, 0)
    distance: Field = np.sqrt(a * a + b * b) + inside - np.float32(corner)
    return distance


def hexagon(u: Field, v: Field, half: float) -> Field:
    """Return distances to a hexagon, `half` from its middle to each side."""
    turns = [turned_by(u, v, angle)[0] for angle in np.arange(6) * np.pi / 3]
    distance: Field = np.max(turns, axis=0) - np.float32(half)
    return distance


def wavy_disc(u: Field, v: Field, blob: Blob) -> Field:
    """Return distances to the border of a blob, as if it were nearly straight."""
    p, q = turned_by(u, v, blob.turn)
    stretch = np.float32(np.sqrt(blob.stretch))
    p, q = p / stretch, q * stretch
    angle = np.arctan2(q, p)
    border = np.ones_like(p)
    for k, (size, phase) in enumerate(blob.waves, start=2):
        border += np.float32(size) * np.cos(k * angle + np.float32(phase))
    return disc(p / border, q / border, blob.radius)


def segment(u: Field, v: Field, start: Point, end: Point) -> Field:
    """Return distances to a straight line between two points; it has no inside."""
    along_u, along_v = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    p, q = u - np.float32(start[0]), v - np.float32(start[1])
    share = np.clip((p * along_u + q * along_v) / (along_u**2 + along_v**2), 0, 1)
    distance: Field = np.hypot(p - share * along_u, q - share * along_v)
    return distance


def round_edge(distance: Field, width: float) -> Field:
    """Return a fall from 1 inside to 0 at the border, like a quarter circle."""
    share = np.clip(1 + distance / np.float32(width), 0, 1)
    height: Field = np.sqrt(np.maximum(1 - share**2, 0))
    return height
