"""A photograph of a surface under a lamp, taken from above.

The lamp is at the upper left and casts shadows. Glossy points mirror a softbox, and
every slope bends its image: so a dent shows although its color is that of the plate.
All light is linear until the camera makes 8 bits of it.
"""

from typing import Final

import numpy as np
from PIL import Image

from efficientad.demo_parts.canvas import SIDE, Field, Surface, points_of_pixels
from efficientad.images.rgb import RGBImage

_MAX_SLOPE: Final = 2.5
_MAX_SHADOW_LENGTH: Final = 14
_SHADOW_SOFTNESS: Final = 1.3
_OCCLUSION_REACH: Final = 8
_GAMMA: Final = 2.2


def photograph(
    surface: Surface, lamp: np.random.Generator, sensor: np.random.Generator
) -> RGBImage:
    """Return a picture of a surface; light, exposure and noise are random."""
    brightness, warmth = lamp.uniform(0.85, 1.2), lamp.uniform(-0.02, 0.03)
    # The lamp: its direction, from the right and turning down, and its elevation.
    direction = np.deg2rad(lamp.uniform(216, 234))
    elevation = np.deg2rad(lamp.uniform(40, 48))
    # Place of the softbox's mirror image, from -1 to 1 across the image.
    box_x, box_y = lamp.uniform((-0.4, -0.35), (0.1, 0.05)).astype(np.float32)
    brighter_x, brighter_y = lamp.uniform(-0.16, 0.08, 2).astype(np.float32)
    x = _across(surface.height.shape[0])
    y = x[:, None]
    field = 1 + brighter_x * x + brighter_y * y
    slope_y, slope_x = _slopes(surface.height)
    upright = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    visible = field * (1 - _shadow(surface.height, direction, elevation))
    # Holes, recesses and corners lie lower than the points around them.
    below = np.maximum(_blurred(surface.height, _OCCLUSION_REACH) - surface.height, 0)
    open_sky: Field = np.exp(-0.16 * below)
    flat, lamp_z = np.cos(elevation), np.float32(np.sin(elevation))
    lamp_x = np.float32(flat * np.cos(direction))
    lamp_y = np.float32(flat * np.sin(direction))
    direct = np.maximum(lamp_z - lamp_x * slope_x - lamp_y * slope_y, 0) * upright
    mirror_x = 0.8 * x - box_x - 1.7 * slope_x * upright
    mirror_y = 0.4 * y - box_y - 1.7 * slope_y * upright
    softbox = np.exp(-2.6 * mirror_x**2 - 1.5 * mirror_y**2)
    mirrored = surface.gloss * softbox * (0.25 + 0.75 * visible) * open_sky
    diffuse = 0.42 * open_sky + 1.05 * direct * visible
    lit = surface.color * diffuse[..., None]
    lit += mirrored[..., None] * (0.22 + 0.9 * surface.color)
    seen: Field = np.mean(points_of_pixels(lit), axis=0)
    balance = np.array([1 + warmth, 1, 1 - warmth], np.float32)
    return _developed(np.float32(brightness), seen, balance, sensor)


def _across(n: int) -> Field:
    """Return the coordinate of each of n points along an axis, from -1 to 1."""
    return (np.arange(n, dtype=np.float32) + 0.5) / np.float32(n / 2) - 1


def _slopes(height: Field) -> tuple[Field, Field]:
    around = np.pad(height, 1, mode="reflect")  # no slope at the border
    down = around[2:, 1:-1] - around[:-2, 1:-1]
    right = around[1:-1, 2:] - around[1:-1, :-2]
    width = np.float32(2 * SIDE / height.shape[0])
    return (
        np.clip(down / width, -_MAX_SLOPE, _MAX_SLOPE),
        np.clip(right / width, -_MAX_SLOPE, _MAX_SLOPE),
    )


def _shadow(height: Field, direction: float, elevation: float) -> Field:
    """March towards the lamp: a point is shaded by what rises above the ray."""
    n = height.shape[0]
    toward_x, toward_y = np.cos(direction), np.sin(direction)
    rise = np.tan(elevation)
    shade = np.zeros_like(height)
    for reach in range(1, _MAX_SHADOW_LENGTH):
        right, down = (round(reach * c * n / SIDE) for c in (toward_x, toward_y))
        # The bench at the border is too flat to cast a shadow to the other side.
        there = np.roll(height, (-down, -right), (0, 1))
        above = there - height - np.float32(reach * rise)
        np.maximum(shade, above, out=shade)
    shadow: Field = np.clip(shade / np.float32(_SHADOW_SOFTNESS), 0, 1)
    return _blurred(shadow, 2)


def _blurred(values: Field, factor: int) -> Field:
    """Blur by resizing: Pillow's blurs do not take floating point."""
    n = values.shape[0]
    small = Image.fromarray(values).resize(
        (n // factor, n // factor), Image.Resampling.BOX
    )
    return np.asarray(small.resize((n, n), Image.Resampling.BICUBIC))


def _developed(
    brightness: np.float32, lit: Field, balance: Field, rng: np.random.Generator
) -> RGBImage:
    """Expose, add noise, and bring linear light to 8 bits."""
    at = _across(lit.shape[0])
    vignette = 1 - 0.10 * (at**2 + at[:, None] ** 2)
    exposed = brightness * vignette[..., None] * lit * balance
    noise = rng.standard_normal(exposed.shape, np.float32)
    exposed += noise * np.sqrt(0.00012 * np.maximum(exposed, 0) + 0.000004)
    # A shoulder instead of burnt-out highlights.
    toned = 1 - np.exp(-1.5 * np.maximum(exposed, 0))
    picture: RGBImage = np.rint(255 * toned ** np.float32(1 / _GAMMA)).astype(np.uint8)
    return picture
