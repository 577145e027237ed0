"""Normal images for an export: those given, or those its detector was calibrated with.

An export is compared with PyTorch on them; in 8 bits the ranges of values are measured
on them, too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from efficientad.datasets import normal_image_paths
from efficientad.errors import ImageError
from efficientad.images.rgb import image_hash, read_image

_Item = TypeVar("_Item")

# As a detector's provenance names them; those that were not trained on come first.
_OWN: Final = ("validation_images", "training_images")


def calibration_images(
    folder: Path | None, provenance: Mapping[str, Any], n: int
) -> list[Path]:
    """Find images spread evenly over a folder or a category, never test images.

    Files, not pixels: those of many large images would fill the memory.

    Args:
        folder: Of normal images, or a category's. None: the detector's own images,
            where they still are what they were.
        provenance: Of the detector.
        n: So many at most.

    Returns:
        None of them where there is no folder and the detector's own are gone.

    Raises:
        DatasetError: If the folder has none, or only test images.
    """
    if folder is None:
        return _own_images(provenance, n)
    training, held_out = normal_image_paths(folder, min_images=1)
    return spread(held_out or training, n)


def spread(items: Sequence[_Item], n: int) -> list[_Item]:
    """Pick up to n items, spread evenly over all of them."""
    n = min(n, len(items))
    return [items[index * len(items) // n] for index in range(n)]


def _own_images(provenance: Mapping[str, Any], n: int) -> list[Path]:
    for kind in _OWN:
        recorded = list(provenance.get(kind, {}).items())
        found = [Path(name) for name, h in spread(recorded, n) if _is_as(name, h)]
        if found:
            return found
    return []


def _is_as(name: str, recorded: str) -> bool:
    """Whether an image is neither gone nor another one by now."""
    try:
        return image_hash(read_image(name)) == recorded
    except ImageError:
        return False
