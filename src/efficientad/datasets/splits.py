"""Which images may be used for what: holding some out, and keeping sets apart."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from efficientad.errors import ConfigError, DatasetError

_Item = TypeVar("_Item", Path, int)
_Name = TypeVar("_Name", Path, str)


def split_validation(
    items: Sequence[_Item], share: float, seed: int
) -> tuple[list[_Item], list[_Item]]:
    """Return training items and, for the calibration, a share that is held out.

    The choice follows from the seed and the number of images in sorted order. It does
    not depend on the machine, the folder, or the order of the list. At least two of
    four or more images are held out, since one alone would set the threshold. Both
    lists are sorted, and neither is empty.

    Raises:
        ConfigError: If `share` is out of range.
        DatasetError: If there are fewer than two items, or one is listed twice.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the validation share must be in (0, 1), got {share}")
    n = len(items)
    if n < 2:  # noqa: PLR2004 - one for each side
        raise DatasetError(
            f"at least 2 images were needed to hold some out, got {n}; give more"
        )
    ordered = sorted(items)
    twice = [item for item, following in pairwise(ordered) if item == following]
    if twice:
        raise DatasetError(
            f"each image was needed once, {twice[0]} is listed twice; list it once"
        )
    n_held_out = min(max(round(share * n), min(2, n // 2)), n - 1)
    # Lots by hash: the stream of a random generator may change from version to version.
    lots = [hashlib.sha256(f"{seed} {place}".encode()).digest() for place in range(n)]
    held_out = set(sorted(range(n), key=lots.__getitem__)[:n_held_out])
    return (
        [item for place, item in enumerate(ordered) if place not in held_out],
        [item for place, item in enumerate(ordered) if place in held_out],
    )


def require_disjoint(
    held_out: Mapping[_Name, str], trained: Mapping[_Name, str]
) -> None:
    """Raise `DatasetError` if held-out images were trained on: those score too well.

    Images have the hashes of their pixels, by `image_hash`.
    """
    trained_name = {digest: name for name, digest in trained.items()}
    shared = sorted(name for name, digest in held_out.items() if digest in trained_name)
    if shared:
        same = trained_name[held_out[shared[0]]]
        raise DatasetError(
            f"calibration needs images that were not trained on, {len(shared)} of them "
            f"were: {shared[0]} is the same picture as {same}; take others"
        )
