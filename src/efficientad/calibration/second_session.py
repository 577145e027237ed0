"""A second session: normal images with changes that are no defects.

The images are made as they are asked for, since many large ones would fill the memory.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from efficientad.calibration.normal_images import Pixels
from efficientad.images.alignment import Alignment
from efficientad.images.changes import MOVES, SESSION, changed

_N_IMAGES: Final = 24
"""Images with each change, at most."""
_AFFORDED_PIXELS: Final = 1024**2
"""Size of images from which on fewer of them are predicted for a calibration."""


def second_session(
    pixels: Pixels, alignment: Alignment | None = None
) -> "SecondSession":
    """Return some normal images with each change of `SESSION`, case by case.

    Args:
        pixels: Normal images, (n, height, width, 3).
        alignment: Reference that changed images are aligned with. None: they are not.
    """
    n = min(len(pixels), n_affordable(_N_IMAGES, pixels))
    return SecondSession(pixels, n, alignment)


class SecondSession:
    """Normal images with changes that are no defects, made as they are asked for."""

    def __init__(self, pixels: Pixels, n: int, alignment: Alignment | None) -> None:
        self._pixels, self._n, self._alignment = pixels, n, alignment

    def __len__(self) -> int:
        return len(SESSION) * self._n

    @property
    def origins(self) -> NDArray[np.intp]:
        """Index of the normal image that each is made of, (cases, images of a case)."""
        cases = np.arange(len(SESSION))[:, np.newaxis]
        return (np.arange(self._n) + 7 * cases) % len(self._pixels)

    def __getitem__(self, places: slice) -> Pixels:
        """Return some of the images, (n, height, width, 3)."""
        found = []
        origins = self.origins
        for place in range(*places.indices(len(self))):
            case, index = divmod(place, self._n)
            kind, strength = SESSION[case]
            image = self._pixels[origins[case, index]]
            image = changed(image, kind, strength, seed=case)
            # Each warp smooths an image, so only those that need it get another one.
            if self._alignment is not None and kind in MOVES:
                image = self._alignment.squeezed_aligned(image)
            found.append(image)
        return np.stack(found)


def n_affordable(n: int, pixels: Pixels) -> int:
    """Return how many images of so many pixels take the time of n at 1024 x 1024.

    Smaller images are not more than n, and the largest at least 2.
    """
    share = _AFFORDED_PIXELS / (pixels.shape[1] * pixels.shape[2])
    return max(2, math.floor(n * min(1.0, float(share))))
