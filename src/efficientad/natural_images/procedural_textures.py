"""Textures and scenes drawn by code, in place of photographs.

A texture is a field of values from 0 to 1 (noise, stripes, checks, cells or strokes),
colored by a random palette. A scene has objects that cover each other, few large and
many small ones as in photographs (the dead leaves model), each with a texture of its
own. Every random number comes from the generator that is passed in.
"""

import math
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from efficientad.images.rgb import INPUT_SIZE, RGBImage

Field = NDArray[np.float32]  # (INPUT_SIZE, INPUT_SIZE), 0 to 1

_OCTAVES: Final = (2, 4, 8, 16, 32, 64, 128)  # cells along a side
_SIZE: Final = (INPUT_SIZE, INPUT_SIZE)
_N_VALUES: Final = 256
_SCENE_SHARE: Final = 0.5
_SHADE_SHARE: Final = 0.5
_BLUR_SHARE: Final = 0.3
_GRAIN_SHARE: Final = 0.3
_SMALLEST_RADIUS: Final = 3.0  # of a scene's objects, pixels
_LARGEST_RADIUS: Final = 120.0


def draw_picture(rng: np.random.Generator) -> RGBImage:
    """Return a texture or a scene of the networks' input size, no two alike."""
    is_scene = rng.random() < _SCENE_SHARE
    picture = _scene(rng) if is_scene else _texture(rng)
    if rng.random() < _BLUR_SHARE:
        picture = picture.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 2)))
    values = np.asarray(picture).astype(np.float32)
    if rng.random() < _SHADE_SHARE:
        values *= np.float32(1) - np.float32(rng.uniform(0.1, 0.7)) * _light(rng)
    if rng.random() < _GRAIN_SHARE:
        grain = rng.standard_normal((*_SIZE, 1), np.float32)
        values += grain * np.float32(rng.uniform(2, 20))
    return values.clip(0, _N_VALUES - 1).astype(np.uint8)


def _scene(rng: np.random.Generator) -> Image.Image:
    """Cover a texture by objects in a few others."""
    picture = _texture(rng)
    n_objects = 4 * 2 ** rng.uniform(0, 5)
    smallest = _SMALLEST_RADIUS * 2 ** rng.uniform(0, 4)
    for _ in range(int(rng.integers(1, 5))):
        mask = Image.new("L", _SIZE)
        canvas = ImageDraw.Draw(mask)
        for _ in range(int(n_objects)):
            _draw_object(canvas, smallest, rng)
        picture.paste(_texture(rng), mask=mask)
    return picture


def _draw_object(
    canvas: ImageDraw.ImageDraw, smallest: float, rng: np.random.Generator
) -> None:
    """Draw a polygon, an ellipse or a bent line; the density of radii falls by r^-3."""
    small, large = smallest**-2, _LARGEST_RADIUS**-2
    radius = (small + rng.random() * (large - small)) ** -0.5
    center = rng.uniform(0, INPUT_SIZE, 2)
    radii = rng.uniform(0.2, 1, 2) * radius
    kind = rng.integers(3)
    if kind == 0:
        canvas.ellipse((*(center - radii), *(center + radii)), fill=_N_VALUES - 1)
        return
    angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 8))))
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + center
    corners = around.ravel().tolist()
    if kind == 1:
        canvas.polygon(corners, fill=_N_VALUES - 1)
    else:
        canvas.line(corners[:6], fill=_N_VALUES - 1, width=int(rng.integers(1, 9)))


def _texture(rng: np.random.Generator) -> Image.Image:
    """Color a field by a random palette."""
    field = _FIELDS[int(rng.integers(len(_FIELDS)))](rng)
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
    """Draw stripes, as often straight as bent."""
    phase = _phase(rng, rng.uniform(0, math.pi))
    if rng.integers(2):
        phase += np.float32(rng.uniform(0.3, 2)) * _noise(rng)
    return _wave(phase, rng)


def _checks(rng: np.random.Generator) -> Field:
    """Draw a grid, checks or bricks: two waves across each other."""
    angle = rng.uniform(0, math.pi)
    rows, columns = _phase(rng, angle), _phase(rng, angle + math.pi / 2)
    columns += np.float32(rng.choice((0, 0.5))) * np.floor(rows)
    if rng.integers(2):
        gap = rng.uniform(0.05, 0.3)
        return ((rows % 1 < gap) | (columns % 1 < gap)).astype(np.float32)
    checks: Field = np.abs(_wave(rows, rng) - _wave(columns, rng))
    return checks


def _cells(rng: np.random.Generator) -> Field:
    """Color each pixel by the nearest of some points, or by its distance to it."""
    side = INPUT_SIZE // 2  # enough, and four times as fast
    n_points = int(rng.integers(5, 40))
    points = rng.uniform(0, side, (n_points, 2)).astype(np.float32)
    at = np.arange(side, dtype=np.float32)
    rows, columns = ((at - points[:, k, None]) ** 2 for k in (0, 1))
    distances = rows[:, :, None] + columns[:, None, :]
    if rng.integers(2):
        values = rng.random(n_points, dtype=np.float32)[distances.argmin(axis=0)]
    else:
        values = _spread(np.sqrt(distances.min(axis=0)))
    picture = Image.fromarray(values)
    return np.asarray(picture.resize(_SIZE, Image.Resampling.BILINEAR))


def _strokes(rng: np.random.Generator) -> Field:
    """Draw many similar strokes, as of grass, fibers, scratches or writing."""
    picture = Image.fromarray(_noise(rng) * np.float32(rng.uniform(0, _N_VALUES - 1)))
    canvas = ImageDraw.Draw(picture)
    length, direction = 8 * 2 ** rng.uniform(0, 4), rng.uniform(0, 2 * math.pi)
    disorder, width = rng.uniform(0, 1.5), int(rng.integers(1, 5))
    n_strokes = int(rng.uniform(0.2, 1.5) * INPUT_SIZE**2 / (length * width * 4))
    starts = rng.uniform(-length, INPUT_SIZE + length, (n_strokes, 2))
    first = direction + disorder * rng.standard_normal(n_strokes)
    second = first + rng.uniform(-0.8, 0.8, n_strokes)
    brightness = rng.uniform(0, _N_VALUES - 1, n_strokes)
    steps = [length / 2 * np.stack([np.cos(a), np.sin(a)], 1) for a in (first, second)]
    middles = starts + steps[0]
    lines = np.concatenate([starts, middles, middles + steps[1]], axis=1)
    for line, value in zip(lines.tolist(), brightness.tolist(), strict=True):
        canvas.line(line, fill=value, width=width)
    return np.array(picture, np.float32) / np.float32(_N_VALUES - 1)


_FIELDS: Final = (_noise, _stripes, _checks, _cells, _strokes)


def _light(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return how far light falls off, (rows, columns, 1), 0 to 1."""
    corners = rng.random((int(rng.integers(2, 5)),) * 2, dtype=np.float32)
    return _spread(_enlarged(corners, INPUT_SIZE))[:, :, None]


@cache
def _positions() -> tuple[Field, Field]:
    rows, columns = np.mgrid[:INPUT_SIZE, :INPUT_SIZE].astype(np.float32)
    return rows, columns


def _phase(rng: np.random.Generator, angle: float) -> Field:
    """Return a plane that rises by 1 each period, across stripes of that angle."""
    rows, columns = _positions()
    period = 4 * 2 ** rng.uniform(0, 5)
    across = np.float32(math.cos(angle) / period), np.float32(math.sin(angle) / period)
    return columns * across[0] + rows * across[1] + np.float32(rng.random())


def _wave(phase: Field, rng: np.random.Generator) -> Field:
    """Return a sine, a square wave or a saw tooth, 0 to 1."""
    kind = rng.integers(3)
    if kind == 0:
        sine: Field = np.sin(phase * np.float32(2 * math.pi)) / 2 + np.float32(0.5)
        return sine
    saw: Field = phase % 1
    return saw if kind == 1 else (saw < rng.uniform(0.2, 0.8)).astype(np.float32)


def _spread(values: Field) -> Field:
    low, high = values.min(), values.max()
    scaled: Field = (values - low) / np.maximum(high - low, np.float32(1e-6))
    return scaled


def _enlarged(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    picture = Image.fromarray(values)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
