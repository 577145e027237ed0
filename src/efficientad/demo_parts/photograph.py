"""A surface under a lamp, seen by a camera from above.

The lamp is to the upper left and casts shadows; a softbox is mirrored by what is glossy
and bends with every slope, so that a dent shows although its color is that of the
plate. Everything is linear light until the camera makes 8 bits of it.
"""

from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from efficientad.demo_parts.canvas import OVERSAMPLING, SIDE, Field, Surface
from efficientad.images.rgb import RGBImage

_MAX_SLOPE: Final = 2.5
_MAX_SHADOW_LENGTH: Final = 14.0
_SHADOW_STEP: Final = 1.0
_SHADOW_SOFTNESS: Final = 1.3
_OCCLUSION_REACH: Final = 8
_GAMMA: Final = 2.2


class Light(NamedTuple):
    """How a picture is lit and taken."""

    brightness: float
    warmth: float
    """Share by which red is stronger and blue weaker."""
    direction: float
    """Where the lamp is, radians from the right, turning down."""
    elevation: float
    """Of the lamp, radians."""
    softbox: tuple[float, float]
    """Where it is mirrored, from -1 to 1 across the image."""
    gradient: tuple[float, float]
    """By how much it is brighter at the right end, and at the lower end."""


def random_light(rng: np.random.Generator) -> Light:
    """Vary the light as it does over a shift."""
    return Light(
        brightness=rng.uniform(0.85, 1.2),
        warmth=rng.uniform(-0.02, 0.03),
        direction=np.deg2rad(rng.uniform(216, 234)),
        elevation=np.deg2rad(rng.uniform(40, 48)),
        softbox=(rng.uniform(-0.4, 0.1), rng.uniform(-0.35, 0.05)),
        gradient=(rng.uniform(-0.16, 0.08), rng.uniform(-0.16, 0.08)),
    )


def photograph(surface: Surface, light: Light, rng: np.random.Generator) -> RGBImage:
    """Light a surface and take its picture, with the noise of a sensor."""
    n = surface.height.shape[0]
    at = (np.arange(n, dtype=np.float32) + 0.5) / np.float32(n / 2) - 1
    x, y = at, at[:, None]
    field = 1 + np.float32(light.gradient[0]) * x + np.float32(light.gradient[1]) * y
    slope_y, slope_x = _slopes(surface.height)
    upright = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    visible = field * (1 - _shadow(surface.height, light))
    open_sky = _open_sky(surface.height)
    lamp_x, lamp_y, lamp_z = _lamp(light)
    direct = np.maximum(lamp_z - lamp_x * slope_x - lamp_y * slope_y, 0) * upright
    mirror_x = 0.8 * x - np.float32(light.softbox[0]) - 1.7 * slope_x * upright
    mirror_y = 0.4 * y - np.float32(light.softbox[1]) - 1.7 * slope_y * upright
    softbox = np.exp(-2.6 * mirror_x**2 - 1.5 * mirror_y**2)
    mirrored = surface.gloss * softbox * (0.25 + 0.75 * visible) * open_sky
    diffuse = 0.42 * open_sky + 1.05 * direct * visible
    lit = surface.color * diffuse[..., None]
    lit += mirrored[..., None] * (0.22 + 0.9 * surface.color)
    return _developed(_averaged(lit), light, rng)


def _lamp(light: Light) -> tuple[np.float32, np.float32, np.float32]:
    flat = np.cos(light.elevation)
    return (
        np.float32(flat * np.cos(light.direction)),
        np.float32(flat * np.sin(light.direction)),
        np.float32(np.sin(light.elevation)),
    )


def _slopes(height: Field) -> tuple[Field, Field]:
    step = np.float32(SIDE / height.shape[0])
    along_y, along_x = np.zeros_like(height), np.zeros_like(height)
    along_y[1:-1] = (height[2:] - height[:-2]) / (2 * step)
    along_x[:, 1:-1] = (height[:, 2:] - height[:, :-2]) / (2 * step)
    return (
        np.clip(along_y, -_MAX_SLOPE, _MAX_SLOPE),
        np.clip(along_x, -_MAX_SLOPE, _MAX_SLOPE),
    )


def _shadow(height: Field, light: Light) -> Field:
    """March towards the lamp: what rises above the ray shades the point."""
    n = height.shape[0]
    toward_x, toward_y = np.cos(light.direction), np.sin(light.direction)
    rise = np.tan(light.elevation)
    shade = np.zeros_like(height)
    for reach in np.arange(_SHADOW_STEP, _MAX_SHADOW_LENGTH, _SHADOW_STEP):
        right, down = (round(reach * c * n / SIDE) for c in (toward_x, toward_y))
        there = _shifted(height, down, right)
        above = there - height - np.float32(reach * rise)
        np.maximum(shade, above, out=shade)
    shadow: Field = np.clip(shade / np.float32(_SHADOW_SOFTNESS), 0, 1)
    return _blurred(shadow, 2)


def _shifted(values: Field, down: int, right: int) -> Field:
    """Give each point the value that lies this much further; at the border its own."""
    (into_rows, from_rows), (into_columns, from_columns) = (
        _overlap(down),
        _overlap(right),
    )
    shifted = values.copy()
    shifted[into_rows, into_columns] = values[from_rows, from_columns]
    return shifted


def _overlap(shift: int) -> tuple[slice, slice]:
    """Give what has a neighbor this much further, and these neighbors."""
    if shift < 0:
        return slice(-shift, None), slice(None, shift)
    return slice(None, -shift or None), slice(shift, None)


def _open_sky(height: Field) -> Field:
    """Darken what lies lower than its surroundings: holes, recesses, corners."""
    below = np.maximum(_blurred(height, _OCCLUSION_REACH) - height, 0)
    open_sky: Field = np.exp(-0.16 * below)
    return open_sky


def _blurred(values: Field, factor: int) -> Field:
    """Blur by resizing: Pillow's blurs do not take floating point."""
    n = values.shape[0]
    small = Image.fromarray(values).resize(
        (n // factor, n // factor), Image.Resampling.BOX
    )
    return np.asarray(small.resize((n, n), Image.Resampling.BICUBIC))


def _averaged(lit: Field) -> Field:
    n = lit.shape[0] // OVERSAMPLING
    total = np.zeros((n, n, lit.shape[2]), np.float32)
    for down, right in np.ndindex(OVERSAMPLING, OVERSAMPLING):
        total += lit[down::OVERSAMPLING, right::OVERSAMPLING]
    total /= OVERSAMPLING**2
    return total


def _developed(lit: Field, light: Light, rng: np.random.Generator) -> RGBImage:
    n = lit.shape[0]
    at = (np.arange(n, dtype=np.float32) + 0.5) / np.float32(n / 2) - 1
    vignette = 1 - 0.10 * (at**2 + at[:, None] ** 2)
    balance = np.array([1 + light.warmth, 1, 1 - light.warmth], np.float32)
    exposed = np.float32(light.brightness) * vignette[..., None] * lit * balance
    noise = rng.standard_normal(exposed.shape, np.float32)
    exposed += noise * np.sqrt(0.00012 * np.maximum(exposed, 0) + 0.000004)
    # A shoulder instead of burnt-out highlights.
    toned = 1 - np.exp(-1.5 * np.maximum(exposed, 0))
    return np.rint(255 * toned ** np.float32(1 / _GAMMA)).astype(np.uint8)
