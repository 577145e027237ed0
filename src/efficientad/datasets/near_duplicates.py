"""Pictures that are nearly the same: stored again, resized, or shot twice.

All normal parts look alike, so thumbnails are compared after their mean over all images
is subtracted. The same shot stored again then has a correlation above 0.994, even at
JPEG quality 60. Two parts in the same position have less: at most 0.97 among the
bottles of MVTec AD, and 0.993 among its screws, some of which lie at the same angle. A
picture that was shifted by some pixels, or whose contrast was changed, may be missed.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

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


def similar_pairs(thumbnails: Sequence[Thumbnail]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of nearly the same picture: two indices, the smaller one first.

    They come one by one, since a static camera gives millions.
    """
    if not thumbnails:
        return
    residuals = np.stack(thumbnails)
    residuals -= residuals.mean(axis=0)
    lengths = np.linalg.norm(residuals, axis=1, keepdims=True)
    residuals /= np.maximum(lengths, np.finfo(np.float32).tiny)
    for first in range(0, len(residuals), _N_ROWS):
        correlations = residuals[first : first + _N_ROWS] @ residuals[first:].T
        rows, columns = np.nonzero(np.triu(correlations, k=1) >= _MIN_CORRELATION)
        yield from zip((rows + first).tolist(), (columns + first).tolist(), strict=True)


def linked(n: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the groups of indices below `n` that pairs link, directly or by others.

    An index without a pair is in no group.
    """
    # Union-find: each index points to a smaller one of its group, the first to itself.
    parent = list(range(n))

    def first_of_group(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]  # halves the way for the next time
            index = parent[index]
        return index

    for left, right in pairs:
        first, other = first_of_group(left), first_of_group(right)
        parent[max(first, other)] = min(first, other)
    groups: dict[int, list[int]] = {}
    for index in range(n):
        groups.setdefault(first_of_group(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]
