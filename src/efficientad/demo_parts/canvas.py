"""What surfaces are painted on, and the shapes they are painted with.

A shape is a signed distance for each point, negative inside, in 1/256 of the image's
width. Its border is soft over one point, and there are several points to a pixel: so
edges are smooth at any angle.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.demo_parts.part import Blob, Point

Field: TypeAlias = NDArray[np.float32]
"""(rows, columns), or (rows, columns, 3) for colors: linear light, 0 to 1."""

Color: TypeAlias = tuple[float, float, float]
Window: TypeAlias = tuple[slice, slice]

SIDE: Final = 256.0
"""Of the image, in the unit of all lengths."""

OVERSAMPLING: Final = 2
"""Points of the surface along a pixel's side."""

_MARGIN: Final = 2.0


@dataclass(frozen=True, eq=False, slots=True)
class Surface:
    """What the light falls on."""

    height: Field
    """Above the bench."""
    color: Field
    gloss: Field
    """From 0, like paper, to 1, like a mirror."""


class Pose(NamedTuple):
    """Where the middle of the plate lies in the image, and how it is turned."""

    x: float
    y: float
    turn: float
    """Radians."""


class Canvas:
    """A surface in the making, and where its points are as seen from the part.

    Only the rectangle around the part is painted on; what is beyond stays as it was.
    """

    def __init__(self, background: Surface, pose: Pose, half: Point) -> None:
        self.whole = Surface(
            background.height.copy(), background.color.copy(), background.gloss.copy()
        )
        """The whole surface; `surface` is a view into it."""
        self.n = background.height.shape[0]
        self.step = SIDE / self.n
        self._pose = pose
        self._cos, self._sin = float(np.cos(pose.turn)), float(np.sin(pose.turn))
        cos, sin = abs(self._cos), abs(self._sin)
        reach_x = cos * half[0] + sin * half[1] + _MARGIN
        reach_y = sin * half[0] + cos * half[1] + _MARGIN
        rows, columns = self._rows_and_columns(pose.x, pose.y, reach_x, reach_y)
        self._first = (rows.start, columns.start)
        self.surface = Surface(
            self.whole.height[rows, columns],
            self.whole.color[rows, columns],
            self.whole.gloss[rows, columns],
        )
        self.shape = self.surface.height.shape
        at = (np.arange(self.n, dtype=np.float32) + 0.5) * self.step - SIDE / 2
        x, y = at[columns] - np.float32(pose.x), at[rows, None] - np.float32(pose.y)
        self._u: Field = np.float32(self._cos) * x + np.float32(self._sin) * y
        self._v: Field = np.float32(self._cos) * y - np.float32(self._sin) * x

    @property
    def everywhere(self) -> Window:
        """The window that cuts nothing off."""
        return slice(None), slice(None)

    def around(self, at: Point, radius: float) -> Window:
        """Cut out the square that holds a circle on the part."""
        x = self._cos * at[0] - self._sin * at[1] + self._pose.x
        y = self._sin * at[0] + self._cos * at[1] + self._pose.y
        rows, columns = self._rows_and_columns(x, y, radius, radius)
        top, left = self._first
        return (
            slice(max(rows.start - top, 0), max(rows.stop - top, 0)),
            slice(max(columns.start - left, 0), max(columns.stop - left, 0)),
        )

    def places(self, window: Window, at: Point = (0, 0)) -> tuple[Field, Field]:
        """Give the points of a window as seen from a point of the part."""
        return self._u[window] - np.float32(at[0]), self._v[window] - np.float32(at[1])

    def cover(self, distance: Field) -> Field:
        """Give how much of each point is inside, from 0 to 1."""
        covered: Field = np.clip(0.5 - distance / np.float32(self.step), 0, 1)
        return covered

    def lay(
        self,
        window: Window,
        cover: Field,
        *,
        height: Field | float,
        color: Field | Color,
        gloss: Field | float,
    ) -> None:
        """Put a material where `cover` is 1, a mixture where it is between 0 and 1."""
        surface = self.surface
        for target, value in ((surface.height, height), (surface.gloss, gloss)):
            target[window] += cover * (np.asarray(value, np.float32) - target[window])
        colors = np.asarray(color, np.float32)
        surface.color[window] += cover[..., None] * (colors - surface.color[window])

    def turned(self, texture: Field) -> Field:
        """Lay a texture, as large as the whole surface, along the part."""
        cos, sin, half = self._cos, self._sin, SIDE / 2
        x = half + self._pose.x - self._first[1] * self.step
        y = half + self._pose.y - self._first[0] * self.step
        right, down = half - cos * x - sin * y, half + sin * x - cos * y
        turned = Image.fromarray(texture).transform(
            self.shape[::-1],
            Image.Transform.AFFINE,
            (cos, sin, right / self.step, -sin, cos, down / self.step),
            Image.Resampling.BILINEAR,
        )
        return np.asarray(turned)

    def _rows_and_columns(
        self, x: float, y: float, reach_x: float, reach_y: float
    ) -> Window:
        """Give the points of the whole surface within reach, cut at its border."""
        rows, columns = (
            slice(
                max(int((middle - reach + SIDE / 2) / self.step), 0),
                min(int((middle + reach + SIDE / 2) / self.step) + 2, self.n),
            )
            for middle, reach in ((y, reach_y), (x, reach_x))
        )
        return rows, columns


def smooth_noise(rng: np.random.Generator, rows: int, columns: int, n: int) -> Field:
    """Draw noise of a few random rows and columns, enlarged to n x n, about -2 to 2."""
    noise = Image.fromarray(rng.standard_normal((rows, columns), np.float32))
    return np.asarray(noise.resize((n, n), Image.Resampling.BICUBIC))


def turned_by(u: Field, v: Field, turn: float) -> tuple[Field, Field]:
    """Give points as seen from something that is turned."""
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return cos * u + sin * v, cos * v - sin * u


def disc(u: Field, v: Field, radius: float) -> Field:
    """Give distances to a circle."""
    distance: Field = np.sqrt(u * u + v * v) - np.float32(radius)
    return distance


def box(u: Field, v: Field, half: Point, corner: float = 0.0) -> Field:
    """Give distances to a rectangle whose corners are rounded."""
    a = np.abs(u) - np.float32(half[0] - corner)
    b = np.abs(v) - np.float32(half[1] - corner)
    inside = np.minimum(np.maximum(a, b), 0)
    a, b = np.maximum(a, 0), np.maximum(b, 0)
    distance: Field = np.sqrt(a * a + b * b) + inside - np.float32(corner)
    return distance


def hexagon(u: Field, v: Field, half: float) -> Field:
    """Give distances to a hexagon, `half` from its middle to each side."""
    distance = np.full_like(u, -half)
    for angle in np.arange(6) * np.pi / 3:
        side = u * np.float32(np.cos(angle)) + v * np.float32(np.sin(angle))
        distance = np.maximum(distance, side - np.float32(half))
    return distance


def wavy_disc(u: Field, v: Field, blob: Blob) -> Field:
    """Give distances to a blob's border, about as long as along a straight one."""
    p, q = turned_by(u, v, blob.turn)
    stretch = np.float32(np.sqrt(blob.stretch))
    p, q = p / stretch, q * stretch
    angle = np.arctan2(q, p)
    border = np.ones_like(u)
    for k, (size, phase) in enumerate(blob.waves, start=2):
        border += np.float32(size) * np.cos(k * angle + np.float32(phase))
    return disc(p / border, q / border, blob.radius)


def segment(u: Field, v: Field, start: Point, end: Point) -> Field:
    """Give distances to a straight line between two points; it has no inside."""
    along_u, along_v = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    p, q = u - np.float32(start[0]), v - np.float32(start[1])
    share = np.clip((p * along_u + q * along_v) / (along_u**2 + along_v**2), 0, 1)
    distance: Field = np.hypot(p - share * along_u, q - share * along_v)
    return distance


def round_edge(distance: Field, width: float) -> Field:
    """Fall from 1 inside to 0 at the border, like a quarter circle."""
    share = np.clip(1 + distance / np.float32(width), 0, 1)
    height: Field = np.sqrt(np.maximum(1 - share**2, 0))
    return height
