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


@dataclass(frozen=True, eq=False, slots=True)
class Surface:
    """The surface that the light falls on."""

    height: Field
    """Height above the bench."""
    color: Field
    gloss: Field
    """From 0, like paper, to 1, like a mirror."""


class Pose(NamedTuple):
    """Position of the plate's middle in the image, and its turn in radians."""

    x: float
    y: float
    turn: float


class Canvas:
    """A surface to paint on, with coordinates relative to the part, of this pose."""

    def __init__(self, background: Surface, pose: Pose) -> None:
        fields = background.height, background.color, background.gloss
        self.surface = Surface(*(field.copy() for field in fields))
        self.n = background.height.shape[0]
        self.step = SIDE / self.n
        self._pose = pose
        self._cos, self._sin = float(np.cos(pose.turn)), float(np.sin(pose.turn))
        at = (np.arange(self.n, dtype=np.float32) + 0.5) * self.step - SIDE / 2
        x, y = at - np.float32(pose.x), at[:, None] - np.float32(pose.y)
        self._u, self._v = turned_by(x, y, pose.turn)

    def near(self, at: Point, radius: float) -> tuple[Window, Field, Field]:
        """Return a square that holds a circle on the part, and coordinates around it.

        A radius of `SIDE` holds the whole surface.
        """
        x = self._cos * at[0] - self._sin * at[1] + self._pose.x
        y = self._sin * at[0] + self._cos * at[1] + self._pose.y
        rows, columns = (
            slice(
                max(int((middle - radius + SIDE / 2) / self.step), 0),
                max(int((middle + radius + SIDE / 2) / self.step) + 2, 0),
            )
            for middle in (y, x)
        )
        u, v = self._u[rows, columns], self._v[rows, columns]
        return (rows, columns), u - np.float32(at[0]), v - np.float32(at[1])

    def cover(self, distance: Field) -> Field:
        """Return the share of each point that is inside a shape, from 0 to 1."""
        covered: Field = np.clip(0.5 - distance / np.float32(self.step), 0, 1)
        return covered

    def lay(
        self,
        window: Window,
        cover: Field,
        height: Field | float,
        color: Field | Color,
        gloss: Field | float,
    ) -> None:
        """Paint a material where `cover` is 1, and a mixture where it is below 1."""
        surface = self.surface
        for target, value in ((surface.height, height), (surface.gloss, gloss)):
            target[window] += cover * (np.asarray(value, np.float32) - target[window])
        colors = np.asarray(color, np.float32)
        surface.color[window] += cover[..., None] * (colors - surface.color[window])

    def turned(self, texture: Field) -> Field:
        """Return a texture, as large as the surface, turned and shifted as the part."""
        cos, sin, half = self._cos, self._sin, SIDE / 2
        x, y = half + self._pose.x, half + self._pose.y
        right, down = half - cos * x - sin * y, half + sin * x - cos * y
        turned = Image.fromarray(texture).transform(
            texture.shape,
            Image.Transform.AFFINE,
            (cos, sin, right / self.step, -sin, cos, down / self.step),
            Image.Resampling.BILINEAR,
        )
        return np.asarray(turned)


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
    border = np.ones_like(u)
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
