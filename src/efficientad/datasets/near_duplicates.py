"""Pictures that are nearly the same: stored again, resized, or shot twice.

All normal parts look alike, so thumbnails are compared after their mean over all images
is subtracted. The same shot stored again then has a correlation above 0.994, even at
JPEG quality 60. Two parts in the same position have less: at most 0.97 among the
bottles of MVTec AD, and 0.993 among its screws, some of which lie at the same angle. A
picture that was shifted by some pixels, or whose contrast was changed, may be missed.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from efficientad.images.components import joined
from efficientad.images.rgb import RGBImage, resize_image

Thumbnail: TypeAlias = NDArray[np.float32]

_SIDE: Final = 64
_MIN_CORRELATION: Final = 0.994
_N_ROWS: Final = 512


def thumbnail(image: RGBImage) -> Thumbnail:
    """Return a small gray copy, flattened, with mean 0 and standard deviation 1.

    It is all zero if the image has one color.
    """
    gray = resize_image(image, _SIDE, _SIDE).mean(axis=2, dtype=np.float32).ravel()
    gray -= gray.mean()
    deviation = gray.std()
    scaled: Thumbnail = gray / deviation if deviation > 0 else gray
    return scaled


def similar_groups(thumbnails: Sequence[Thumbnail]) -> list[list[int]]:
    """Return the groups of nearly the same pictures by their indices, in order.

    Pictures of a group are similar directly or by others. A picture that is similar to
    none is in no group.
    """
    if not thumbnails:
        return []
    residuals = np.stack(thumbnails)
    residuals -= residuals.mean(axis=0)
    lengths = np.linalg.norm(residuals, axis=1, keepdims=True)
    residuals /= np.maximum(lengths, np.finfo(np.float32).tiny)
    n = len(residuals)
    first = np.arange(n)
    # A static camera gives millions of pairs: those of some rows at a time are joined.
    for start in range(0, n, _N_ROWS):
        correlations = residuals[start : start + _N_ROWS] @ residuals[start:].T
        rows, columns = np.nonzero(np.triu(correlations, k=1) >= _MIN_CORRELATION)
        one = np.concatenate([np.arange(n), rows + start])
        first = joined(n, one, np.concatenate([first, columns + start]))
    groups: dict[int, list[int]] = {}
    for index, of_group in enumerate(first.tolist()):
        groups.setdefault(of_group, []).append(index)
    return [group for group in groups.values() if len(group) > 1]
