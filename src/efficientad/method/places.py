"""Levels of the places of a map: how high it is there for normal images.

Parts that lie in one place have their print, their edges and their plain surfaces in
the same places. Where normal images are hard to predict, a map is higher, and a defect
elsewhere would have to exceed it. No torch here.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.images.encoding import pixels_of_text, png_text
from efficientad.method.sizes import GRID_SIZE

_SIZE: Final = (GRID_SIZE, GRID_SIZE)
_MIDDLE, _STEPS_OF_OCTAVE = 128, 32


def place_levels(maps: NDArray[np.float32]) -> str:
    """Return the mean of maps of normal images in 56 x 56 places, as text.

    The maps, (n, rows, columns), are raw ones, divided by their levels. The levels of
    places are relative to their mean, between a sixteenth and sixteen times it, in
    steps of about two percent. The text is that of a gray picture.
    """
    mean = Image.fromarray(maps.mean(0)).resize(_SIZE, Image.Resampling.BOX)
    levels = np.asarray(mean)
    relative = np.maximum(levels, np.finfo(np.float32).tiny) / levels.mean()
    steps = np.round(_MIDDLE + _STEPS_OF_OCTAVE * np.log2(relative))
    return png_text(np.clip(steps, 0, 255).astype(np.uint8))


@lru_cache(maxsize=8)
def levels_of_places(text: str, rows: int, columns: int) -> NDArray[np.float32]:
    """Return the levels of a text on a grid, (rows, columns).

    Raises:
        ValueError: If the text is none of `place_levels`.
    """
    steps = pixels_of_text(text, GRID_SIZE).astype(np.float32)
    if steps.shape != _SIZE:
        raise ValueError("another size")
    levels = Image.fromarray(np.exp2((steps - _MIDDLE) / _STEPS_OF_OCTAVE))
    refined = levels.resize((columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(refined)
