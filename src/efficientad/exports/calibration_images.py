"""Normal images for an export: given ones, or those of the detector's calibration.

An export is compared with PyTorch on them. For 8 bits, the ranges of activations are
measured on them as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from efficientad.datasets import normal_image_paths
from efficientad.errors import ImageError
from efficientad.images.levels import Levels
from efficientad.images.rgb import image_hash, read_image

_Item = TypeVar("_Item")

# Entries of the provenance; images that were not trained on come first.
_OWN: Final = ("validation_images", "training_images")


def calibration_images(
    folder: Path | None,
    provenance: Mapping[str, Any],
    n: int,
    levels: Levels | None = None,
) -> list[Path]:
    """Return up to n images, spread evenly over a folder of them or a category.

    Test images are never among them. Without a folder, they are those of the detector's
    calibration or else of its training, and none if these are gone or changed.

    Raises:
        DatasetError: If the folder has no normal images, or only test images.
    """
    if folder is None:
        return _own_images(provenance, n, levels)
    training, held_out = normal_image_paths(folder, min_images=1)
    return spread(held_out or training, n)


def spread(items: Sequence[_Item], n: int) -> list[_Item]:
    """Return up to n items, spread evenly over all of them."""
    n = min(n, len(items))
    return [items[index * len(items) // n] for index in range(n)]


def _own_images(
    provenance: Mapping[str, Any], n: int, levels: Levels | None
) -> list[Path]:
    for kind in _OWN:
        recorded = list(provenance.get(kind, {}).items())
        found = [
            Path(name)
            for name, recorded_hash in spread(recorded, n)
            if _has_hash(name, recorded_hash, levels)
        ]
        if found:
            return found
    return []


def _has_hash(name: str, recorded: str, levels: Levels | None) -> bool:
    try:
        return image_hash(read_image(name, levels=levels)) == recorded
    except ImageError:
        return False
