"""Facts on a model for people: what it was trained on, and how it decides."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_PARTS_OF_A_LAYOUT: Final = {"good", "ok", "normal", "train", "training", "images"}


def product_of(provenance: Mapping[str, Any]) -> str:
    """Return the name of the folder that a model was trained on.

    Folders of a layout, such as `train/good`, do not count. Empty: unknown, as after a
    training on arrays.
    """
    folders = {Path(name).parent for name in provenance.get("training_images", {})}
    if not folders or not all(folder.is_absolute() for folder in folders):
        return ""
    place = Path(os.path.commonpath(folders))
    while place.name.lower() in _PARTS_OF_A_LAYOUT:
        place = place.parent
    return place.name


def training_of(provenance: Mapping[str, Any]) -> str:
    """Return what a model was trained on and when, as far as it is known."""
    product, n = product_of(provenance), len(provenance.get("training_images", {}))
    words = f"trained on {n} normal images" if n else "of unknown training images"
    words += f" of {product!r}" if product else ""
    made_on = provenance.get("made_on")
    return f"{words} on {made_on}" if made_on else words
