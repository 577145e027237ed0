"""Changes of an image that are no defects, as between two sessions of one line.

A lamp ages, a lens is refocused, a part lies a little differently. Each kind of change
has a strength; at 1 it is as strong as between two sessions of one line. No torch here.
"""

import io
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from efficientad.images.rgb import RGBImage

Change = Callable[[RGBImage, float, np.random.Generator], RGBImage]

_LIGHT: Final = 0.15
_BLUR: Final = 0.8
_SHIFT: Final = 8
_DEGREES: Final = 2.0
_NOISE: Final = 3.0
_BEST_QUALITY: Final = 90
_QUALITY_LOST: Final = 30


def _rounded(values: NDArray[np.floating]) -> RGBImage:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _brightness(pixels: RGBImage, strength: float, _: np.random.Generator) -> RGBImage:
    return _rounded(pixels * (1 + _LIGHT * strength))


def _contrast(pixels: RGBImage, strength: float, _: np.random.Generator) -> RGBImage:
    mean = pixels.mean()
    return _rounded((pixels - mean) * (1 + _LIGHT * strength) + mean)


def _blur(pixels: RGBImage, strength: float, _: np.random.Generator) -> RGBImage:
    blurred = Image.fromarray(pixels).filter(
        ImageFilter.GaussianBlur(_BLUR * abs(strength))
    )
    return np.asarray(blurred)


def _shift(pixels: RGBImage, strength: float, rng: np.random.Generator) -> RGBImage:
    """Move the content, along a diagonal and by the strength times 8 pixels."""
    distance = round(_SHIFT * abs(strength))
    down, right = distance * rng.choice((-1, 1), 2)
    padded = np.pad(pixels, ((_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="edge")
    height, width = pixels.shape[:2]
    top, left = _SHIFT - down, _SHIFT - right
    return padded[top : top + height, left : left + width]


def _rotation(pixels: RGBImage, strength: float, _: np.random.Generator) -> RGBImage:
    height, width = pixels.shape[:2]
    margin = round(max(height, width) * np.sin(np.radians(_DEGREES))) + 1
    edge = (margin, margin)
    padded = Image.fromarray(np.pad(pixels, (edge, edge, (0, 0)), mode="edge"))
    turned = padded.rotate(_DEGREES * strength, Image.Resampling.BICUBIC)
    return np.asarray(turned)[margin : margin + height, margin : margin + width]


def _compression(pixels: RGBImage, strength: float, _: np.random.Generator) -> RGBImage:
    stream = io.BytesIO()
    quality = round(_BEST_QUALITY - _QUALITY_LOST * abs(strength))
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as picture:
        return np.asarray(picture.convert("RGB"))


def _noise(pixels: RGBImage, strength: float, rng: np.random.Generator) -> RGBImage:
    return _rounded(pixels + rng.normal(0, _NOISE * abs(strength), pixels.shape))


CHANGES: Final[dict[str, Change]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "blur": _blur,
    "shift": _shift,
    "rotation": _rotation,
    "JPEG compression": _compression,
    "noise": _noise,
}
"""Functions of an image, a strength in [-1, 1] and random numbers, by their kinds."""

MOVES: Final = frozenset({"shift", "rotation"})
"""Kinds that move the part."""

SESSION: Final = tuple(
    (kind, strength)
    for kind in CHANGES
    for strength in ((-1.0, 1.0) if kind in {"brightness", "contrast"} else (0.5, 1.0))
)
"""Kinds and strengths of the changes between two sessions of one line."""


def changed(pixels: RGBImage, kind: str, strength: float, seed: int) -> RGBImage:
    """Return an image with one of `CHANGES`, of a strength in [-1, 1]."""
    return CHANGES[kind](pixels, strength, np.random.default_rng(seed))
