"""Normal images for an export: those given, or those its detector was calibrated with.

An export is compared with PyTorch on them; in 8 bits the ranges of values are measured
on them, too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from efficientad.datasets import normal_image_paths
from efficientad.errors import ImageError
from efficientad.images import RGBImage, as_rgb, image_hash, read_image

_Item = TypeVar("_Item")

# As a detector's provenance names them; those that were not trained on come first.
_OWN: Final = ("validation_images", "training_images")


def calibration_images(
    folder: Path | None, provenance: Mapping[str, Any], n: int
) -> list[RGBImage]:
    """Give images spread evenly over a folder or a category, never test images.

    Args:
        folder: Of normal images, or a category's. None: the detector's own images,
            where they still are what they were.
        provenance: Of the detector.
        n: So many at most.

    Returns:
        None of them where there is no folder and the detector's own are gone.

    Raises:
        DatasetError: If the folder has none, or only test images.
        ImageError: If one of the folder cannot be used.
    """
    if folder is None:
        return _own_images(provenance, n)
    training, held_out = normal_image_paths(folder, min_images=1)
    return [as_rgb(path) for path in spread(held_out or training, n)]


def spread(items: Sequence[_Item], n: int) -> list[_Item]:
    """Pick up to n items, spread evenly over all of them."""
    n = min(n, len(items))
    return [items[index * len(items) // n] for index in range(n)]


def _own_images(provenance: Mapping[str, Any], n: int) -> list[RGBImage]:
    for kind in _OWN:
        recorded = list(provenance.get(kind, {}).items())
        found = [_as_recorded(name, digest) for name, digest in spread(recorded, n)]
        images = [image for image in found if image is not None]
        if images:
            return images
    return []


def _as_recorded(name: str, digest: str) -> RGBImage | None:
    """Read an image, unless it is gone or another one by now."""
    try:
        image = read_image(name)
    except ImageError:
        return None
    return image if image_hash(image) == digest else None
