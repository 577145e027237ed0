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
    """Hold out a share of the training images for the calibration.

    Which ones follows from the seed and their number in sorted order: neither from the
    machine, nor from where the folder is or how it was listed.

    Args:
        items: Paths or numbers, at least two, in any order.
        share: To hold out, in (0, 1). Of four or more images at least two are, since
            one alone would decide the threshold.
        seed: Another one gives another split.

    Returns:
        Those for training and those for validation, both sorted, neither empty.

    Raises:
        ConfigError: If `share` is out of range.
        DatasetError: If there are fewer than two items, or one is there twice.
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
    held_out = set(sorted(range(n), key=lambda place: _lot(seed, place))[:n_held_out])
    return (
        [item for place, item in enumerate(ordered) if place not in held_out],
        [item for place, item in enumerate(ordered) if place in held_out],
    )


def shared_images(
    hashes: Mapping[_Name, str], other_hashes: Mapping[_Name, str]
) -> list[tuple[_Name, _Name]]:
    """Find the pictures that two sets of images have in common.

    Args:
        hashes: Of each image's decoded pixels, by `image_hash`.
        other_hashes: Likewise.

    Returns:
        All pairs of equal pictures, sorted; empty where the sets are disjoint.
    """
    twins: dict[str, list[_Name]] = {}
    for path, digest in other_hashes.items():
        twins.setdefault(digest, []).append(path)
    return sorted(
        (path, twin)
        for path, digest in hashes.items()
        for twin in twins.get(digest, ())
    )


def require_disjoint(
    held_out: Mapping[_Name, str], trained: Mapping[_Name, str]
) -> None:
    """Refuse held-out images that were trained on: on those a detector is too good.

    Args:
        held_out: Hash of each image, by `image_hash`.
        trained: Likewise.

    Raises:
        DatasetError: If they share some.
    """
    shared = shared_images(held_out, trained)
    if shared:
        name, twin = shared[0]
        raise DatasetError(
            f"calibration needs images that were not trained on, {len(shared)} of them "
            f"were: {name} is the same picture as {twin}; take others"
        )


def _lot(seed: int, place: int) -> bytes:
    # Not a random generator: its stream may change from version to version.
    return hashlib.sha256(f"{seed} {place}".encode()).digest()
