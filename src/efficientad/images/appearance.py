"""Appearance of images in a few numbers, which tell one recording session from another.

Light, exposure and focus change all images of a session alike. A shift of these numbers
says that two sets of images were not taken in the same way. No torch here.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

QUANTITIES: Final = {
    "brightness": ("darker", "brighter"),
    "contrast": ("of lower contrast", "of higher contrast"),
    "sharpness": ("less sharp", "sharper"),
    "redness": ("bluer", "redder"),
}
"""Words for a low and a high value of each quantity."""

_LEAST_REDNESS: Final = 4
"""Redness below which an image is as good as gray."""
_NEARLY_ALL: Final = 0.9


def appearance(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Return brightness, contrast, sharpness and redness, (height, width, 3), RGB.

    These are the mean gray value, its standard deviation, the mean step between
    neighboring pixels as a share of that deviation, and the mean of red minus blue. The
    first two are in [0, 255], the last in [-255, 255].
    """
    gray = pixels.mean(2, dtype=np.float32)
    steps = np.abs(np.diff(gray, axis=0)).mean(), np.abs(np.diff(gray, axis=1)).mean()
    contrast = float(gray.std())
    return {
        "brightness": float(gray.mean()),
        "contrast": contrast,
        "sharpness": float(np.mean(steps)) / max(contrast, 1e-6),
        "redness": redness(pixels),
    }


def redness(pixels: NDArray[np.uint8]) -> float:
    """Return the mean of red minus blue, in [-255, 255], of (height, width, 3), RGB."""
    red, blue = (float(pixels[..., channel].mean()) for channel in (0, 2))
    return red - blue


def is_exchanged(value: float, normal: Sequence[float]) -> bool:
    """Return whether red and blue of an image look exchanged, as in BGR arrays.

    It can be seen only where nearly all normal images are red, or nearly all blue. The
    arguments are the redness of the image and of normal images.
    """
    if not normal:
        return False
    usual = float(np.median(normal))
    share = float(np.mean(np.sign(normal) == np.sign(usual)))
    is_colored = abs(usual) >= _LEAST_REDNESS and share >= _NEARLY_ALL
    return is_colored and abs(value + usual) <= abs(usual) / 2


def appearances(images: NDArray[np.uint8]) -> dict[str, list[float]]:
    """Return the quantities of all images, (n, height, width, 3), by their names."""
    found = [appearance(pixels) for pixels in images]
    return {name: [round(each[name], 4) for each in found] for name in QUANTITIES}
