"""Textures drawn by code: noise, stripes, checks, cells and shapes in random colors.

They fill what a few dozen photographs leave out of the world of surfaces. Each is a
field of values from 0 to 1, colored by a random palette. Every random number comes from
the generator that is passed in.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from efficientad.images.rgb import INPUT_SIZE, RGBImage

Field = NDArray[np.float32]  # (INPUT_SIZE, INPUT_SIZE), 0 to 1

_OCTAVES: Final = (2, 4, 8, 16, 32, 64, 128)  # cells along a side
_BLUR_SHARE: Final = 0.3
_GRAIN_SHARE: Final = 0.3
_N_VALUES: Final = 256


def draw_texture(rng: np.random.Generator) -> RGBImage:
    """Draw one texture of the networks' input size, no two alike."""
    kind = int(rng.integers(len(_FIELDS) + 1))
    if kind == len(_FIELDS):
        picture = _shapes(rng)
    else:
        picture = _colored(_FIELDS[kind](rng), rng)
    if rng.random() < _BLUR_SHARE:
        picture = picture.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 2)))
    texture = np.asarray(picture)
    return _with_grain(texture, rng) if rng.random() < _GRAIN_SHARE else texture


def _noise(rng: np.random.Generator) -> Field:
    """Sum octaves of smooth noise, each weaker than the one before it, or stronger."""
    first = int(rng.integers(len(_OCTAVES) - 1))
    roughness = rng.uniform(0.4, 1.1)
    total = np.zeros((1, 1), np.float32)
    for k, n_cells in enumerate(_OCTAVES[first:]):
        octave = rng.random((n_cells, n_cells), dtype=np.float32)
        total = _enlarged(total, n_cells) + np.float32(roughness**k) * octave
    return _spread(_enlarged(total, INPUT_SIZE))


def _stripes(rng: np.random.Generator) -> Field:
    phase = _phase(rng, rng.uniform(0, math.pi))
    if rng.random() < 0.5:  # noqa: PLR2004 - as often straight as bent
        phase += np.float32(rng.uniform(0.3, 2)) * _noise(rng)
    return _wave(phase, rng)


def _checks(rng: np.random.Generator) -> Field:
    """Draw checks, bricks or a grid: two waves across each other."""
    angle = rng.uniform(0, math.pi)
    rows, columns = _phase(rng, angle), _phase(rng, angle + math.pi / 2)
    columns += np.float32(rng.choice((0, 0.5))) * np.floor(rows)
    if rng.random() < 0.5:  # noqa: PLR2004 - as often a grid as checks
        gap = rng.uniform(0.05, 0.3)
        return ((rows % 1 < gap) | (columns % 1 < gap)).astype(np.float32)
    checks: Field = np.abs(_wave(rows, rng) - _wave(columns, rng))
    return checks


def _cells(rng: np.random.Generator) -> Field:
    """Color each pixel by the nearest of some points, or by its distance."""
    step = 2
    side = INPUT_SIZE // step
    n_points = int(rng.integers(5, 40))
    points = rng.uniform(0, side, (n_points, 2)).astype(np.float32)
    at = np.arange(side, dtype=np.float32)
    rows, columns = ((at - points[:, k, None]) ** 2 for k in (0, 1))
    distances = rows[:, :, None] + columns[:, None, :]
    if rng.random() < 0.5:  # noqa: PLR2004 - as often flat as graded
        values = rng.random(n_points, dtype=np.float32)[distances.argmin(axis=0)]
    else:
        values = _spread(np.sqrt(distances.min(axis=0)))
    picture = Image.fromarray(values)
    size = (INPUT_SIZE, INPUT_SIZE)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


_FIELDS: Final[tuple[Callable[[np.random.Generator], Field], ...]] = (
    _noise,
    _stripes,
    _checks,
    _cells,
)


def _shapes(rng: np.random.Generator) -> Image.Image:
    """Draw polygons, ellipses and lines over each other on a soft background."""
    picture = _colored(_noise(rng), rng)
    canvas = ImageDraw.Draw(picture)
    largest = rng.uniform(10, 120)
    for _ in range(int(rng.integers(3, 60))):
        color = tuple(int(value) for value in rng.integers(0, _N_VALUES, 3))
        draw_shape(canvas, color, largest, rng)
    return picture


def draw_shape(
    canvas: ImageDraw.ImageDraw,
    color: int | tuple[int, ...],
    largest: float,
    rng: np.random.Generator,
) -> None:
    """Draw one filled polygon or ellipse, or a line, anywhere on the canvas.

    Args:
        canvas: Of the networks' input size.
        color: As the canvas's mode has it.
        largest: Radius that is not exceeded.
        rng: Where the random numbers come from.
    """
    center = rng.uniform(0, INPUT_SIZE, 2)
    radii = rng.uniform(0.1, 1, 2) * largest
    kind = rng.integers(3)
    if kind == 0:
        canvas.ellipse((*(center - radii), *(center + radii)), fill=color)
        return
    angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 8))))
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + center
    corners = [(float(x), float(y)) for x, y in around]
    if kind == 1:
        canvas.polygon(corners, fill=color)
    else:
        canvas.line(corners[:3], fill=color, width=int(rng.integers(1, 9)))


@cache
def _positions() -> tuple[Field, Field]:
    rows, columns = np.mgrid[:INPUT_SIZE, :INPUT_SIZE].astype(np.float32)
    return rows, columns


def _phase(rng: np.random.Generator, angle: float) -> Field:
    rows, columns = _positions()
    period = 4 * 2 ** rng.uniform(0, 5)
    across = np.float32(math.cos(angle) / period), np.float32(math.sin(angle) / period)
    return columns * across[0] + rows * across[1] + np.float32(rng.random())


def _wave(phase: Field, rng: np.random.Generator) -> Field:
    kind = rng.integers(3)
    if kind == 0:
        sine: Field = np.sin(phase * np.float32(2 * math.pi)) / 2 + np.float32(0.5)
        return sine
    if kind == 1:
        return (phase % 1 < rng.uniform(0.2, 0.8)).astype(np.float32)
    saw: Field = phase % 1
    return saw


def _spread(values: Field) -> Field:
    low, high = values.min(), values.max()
    scaled: Field = (values - low) / np.maximum(high - low, np.float32(1e-6))
    return scaled


def _enlarged(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    picture = Image.fromarray(values)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))


def _colored(field: Field, rng: np.random.Generator) -> Image.Image:
    n_colors = int(rng.integers(2, 6))
    colors = rng.uniform(0, _N_VALUES, (n_colors, 3))
    gray = colors.mean(axis=1, keepdims=True)
    colors = gray + rng.random() * (colors - gray)  # few surfaces are very colorful
    stops = np.linspace(0, _N_VALUES - 1, n_colors)
    at = np.arange(_N_VALUES)
    palette = np.stack([np.interp(at, stops, channel) for channel in colors.T], axis=1)
    picture = Image.fromarray((field * np.float32(_N_VALUES - 1)).astype(np.uint8))
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return picture.convert("RGB")


def _with_grain(texture: RGBImage, rng: np.random.Generator) -> RGBImage:
    shape = (INPUT_SIZE, INPUT_SIZE, 1)
    grain = rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(2, 20))
    grained = texture.astype(np.int16) + grain.astype(np.int16)
    return grained.clip(0, _N_VALUES - 1).astype(np.uint8)
