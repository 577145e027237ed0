"""Pictures that are nearly the same: stored again, resized, or shot twice.

All normal parts look alike, so two pictures are compared in what is special to them:
what a small gray copy shows beyond the mean of all. The same shot stored again agrees
in that by a correlation of more than 0.994, at JPEG quality 60 as well, two parts in
the same place by less: 0.97 at most among the bottles of MVTec AD, 0.993 among its
screws, some of which lie at the same angle. A picture that was shifted by some pixels,
or whose contrast was changed, may be missed.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from efficientad.images.rgb import RGBImage, resize_image

Thumbnail = NDArray[np.float32]

_SIDE: Final = 64
_MIN_CORRELATION: Final = 0.994
_N_ROWS: Final = 512


def thumbnail(image: RGBImage) -> Thumbnail:
    """Give a small gray copy, flattened, with mean 0 and deviation 1.

    All zero where the image has one color.
    """
    gray = resize_image(image, _SIDE, _SIDE).mean(axis=2, dtype=np.float32).ravel()
    gray -= gray.mean()
    deviation = gray.std()
    scaled: Thumbnail = gray / deviation if deviation > 0 else gray
    return scaled


def similar_pairs(thumbnails: Sequence[Thumbnail]) -> Iterator[tuple[int, int]]:
    """Find the pairs that are nearly the same picture.

    Args:
        thumbnails: Of all images of a category, equal pictures only once: the more
            there are, the better is known what all have in common.

    Yields:
        Indices, the smaller one first, in ascending order: one by one, since a static
        camera gives millions.
    """
    if not thumbnails:
        return
    special = np.stack(thumbnails)
    special -= special.mean(axis=0)
    lengths = np.linalg.norm(special, axis=1, keepdims=True)
    special /= np.maximum(lengths, np.finfo(np.float32).tiny)
    yield from _pairs(special)


def linked(n: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Group what is linked by pairs; what is not linked is left out.

    Args:
        n: Indices in the pairs are below it.
        pairs: In any order.

    Returns:
        Indices in ascending order, groups in that of their first index.
    """
    # Union-find: each index points to a smaller one of its group, the first to itself.
    parent = list(range(n))
    for left, right in pairs:
        first, other = _first_of_group(parent, left), _first_of_group(parent, right)
        parent[max(first, other)] = min(first, other)
    groups: dict[int, list[int]] = {}
    for index in range(n):
        groups.setdefault(_first_of_group(parent, index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _pairs(special: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    for first in range(0, len(special), _N_ROWS):
        correlations = special[first : first + _N_ROWS] @ special[first:].T
        rows, columns = np.nonzero(np.triu(correlations, k=1) >= _MIN_CORRELATION)
        yield from zip((rows + first).tolist(), (columns + first).tolist(), strict=True)


def _first_of_group(parent: list[int], index: int) -> int:
    while parent[index] != index:
        # Halves the way for the next time.
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
