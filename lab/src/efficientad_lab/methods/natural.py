"""Natural images for methods that learn from them before they see a product."""

from pathlib import Path

import numpy as np
import torch

from efficientad.errors import ConfigError
from efficientad.images.rgb import INPUT_SIZE, resize_image
from efficientad.natural_images.pictures import open_images
from efficientad_lab.methods.method import NormalPixels


def natural_pixels(path: str | None, n_images: int, what: str) -> NormalPixels:
    """Return some natural images, evenly out of all, (n, 256, 256, 3), RGB.

    Args:
        path: Folder or tar. None: an error.
        n_images: Largest number of images.
        what: Purpose, for the message.

    Raises:
        ConfigError: If there is no path.
        DatasetError: If it holds no images.
        ImageError: If one cannot be read.
    """
    if path is None:
        raise ConfigError(
            f"{what} needs natural images, no folder was given; set natural_images to "
            "a folder or tar"
        )
    images = open_images(Path(path))
    places = np.linspace(0, len(images) - 1, min(n_images, len(images)))
    found = [
        resize_image(images.read(int(place)), INPUT_SIZE, INPUT_SIZE)
        for place in places.round()
    ]
    return torch.from_numpy(np.stack(found))
