"""Appearance of images in a few numbers, which tell one recording session from another.

Light, exposure and focus change all images of a session alike. A shift of these numbers
says that two sets of images were not taken in the same way. No torch here.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

QUANTITIES: Final = {
    "brightness": ("darker", "brighter"),
    "contrast": ("of lower contrast", "of higher contrast"),
    "sharpness": ("less sharp", "sharper"),
}
"""Words for a low and a high value of each quantity."""


def appearance(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Return brightness, contrast and sharpness of an image.

    Args:
        pixels: RGB, (height, width, 3), at least 2 x 2.

    Returns:
        Mean gray value, its standard deviation, and the mean step between neighboring
        pixels as a share of that deviation. The first two are in [0, 255].
    """
    gray = pixels.mean(2, dtype=np.float32)
    steps = np.abs(np.diff(gray, axis=0)).mean(), np.abs(np.diff(gray, axis=1)).mean()
    contrast = float(gray.std())
    return {
        "brightness": float(gray.mean()),
        "contrast": contrast,
        "sharpness": float(np.mean(steps)) / max(contrast, 1e-6),
    }


def appearances(images: NDArray[np.uint8]) -> dict[str, list[float]]:
    """Return the quantities of all images, (n, height, width, 3), by their names."""
    found = [appearance(pixels) for pixels in images]
    return {name: [round(each[name], 4) for each in found] for name in QUANTITIES}
