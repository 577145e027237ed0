"""Pictures that are installed already, and how one of them becomes many.

scikit-image and scikit-learn carry some photographs for their examples. Nothing is
downloaded and neither package is imported: the files are found and read. Few as they
are, every draw is another crop, at another zoom, angle and color.
"""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.errors import MissingDependencyError
from efficientad.images.rgb import INPUT_SIZE

# Package, module, folder in it, files. Left out: drawings, tiny pictures, duplicates.
_PICTURES: Final = (
    (
        "scikit-image",
        "skimage",
        "data",
        (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "cell.png",
            "chelsea.png",
            "clock_motion.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "moon.png",
            "motorcycle_left.png",
            "page.png",
            "retina.jpg",
            "rocket.jpg",
            "text.png",
        ),
    ),
    ("scikit-learn", "sklearn", "datasets/images", ("china.jpg", "flower.jpg")),
)

_SMALLEST_WINDOW: Final = 96  # pixels of the picture that may fill the whole draw
_UPRIGHT_SHARE: Final = 0.5
_HUE_SHARE: Final = 0.5
_NEGATIVE_SHARE: Final = 0.1
_LUMA: Final = (0.299, 0.587, 0.114)


def find_embedded_pictures() -> list[Path]:
    """List the pictures in the installed packages, always in the same order.

    Raises:
        MissingDependencyError: If a package or all of its pictures are missing.
    """
    paths: list[Path] = []
    for package, module, folder, names in _PICTURES:
        spec = importlib.util.find_spec(module)
        roots = spec.submodule_search_locations if spec is not None else None
        found = [
            Path(root, folder, name)
            for root in roots or ()
            for name in names
            if Path(root, folder, name).is_file()
        ]
        if not found:
            raise MissingDependencyError(
                f"the embedded pretraining images need the pictures of {package}, which"
                " is not installed; run: pip install 'efficientad[train]', or give a"
                " folder of images"
            )
        paths += found
    return paths


def pyramid(picture: Image.Image) -> list[Image.Image]:
    """The picture in full size, half, quarter and so on, down to the drawn size."""
    levels = [picture]
    while min(levels[-1].size) >= 2 * INPUT_SIZE:
        levels.append(levels[-1].reduce(2))
    return levels


def vary_picture(
    levels: Sequence[Image.Image], rng: np.random.Generator
) -> Image.Image:
    """Cut a random window out of a picture and change its colors.

    Args:
        levels: The picture's `pyramid`.
        rng: Where the random numbers come from.

    Returns:
        An RGB picture of the networks' input size.
    """
    return _recolored(_window(levels, rng), rng)


def _window(levels: Sequence[Image.Image], rng: np.random.Generator) -> Image.Image:
    """Cut a turned, flipped and stretched rectangle that lies inside the picture."""
    width, height = levels[0].size
    angle = 0.0 if rng.random() < _UPRIGHT_SHARE else rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    largest = (min(width, height) - 2) / (abs(cos) + abs(sin))
    smallest = min(_SMALLEST_WINDOW, largest)
    side = smallest * (largest / smallest) ** rng.random()
    stretch = 0.75 ** rng.uniform(-1, 1)
    across, down = side * min(1, stretch), side * min(1, 1 / stretch)
    reach_x = (across * abs(cos) + down * abs(sin)) / 2 + 1
    reach_y = (across * abs(sin) + down * abs(cos)) / 2 + 1
    center_x = rng.uniform(reach_x, width - reach_x)
    center_y = rng.uniform(reach_y, height - reach_y)

    halvings = round(math.log2(max(1, side / INPUT_SIZE)))
    level = levels[min(halvings, len(levels) - 1)]
    shrunk = level.size[0] / width
    flip = rng.choice((-1, 1))
    step_x, step_y = flip * across * shrunk / INPUT_SIZE, down * shrunk / INPUT_SIZE
    a, b = cos * step_x, -sin * step_y
    d, e = sin * step_x, cos * step_y
    middle = INPUT_SIZE / 2
    return level.transform(
        (INPUT_SIZE, INPUT_SIZE),
        Image.Transform.AFFINE,
        (
            a,
            b,
            center_x * shrunk - (a + b) * middle,
            d,
            e,
            center_y * shrunk - (d + e) * middle,
        ),
        Image.Resampling.BILINEAR,
    )


def _recolored(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    mix = np.zeros((3, 4))
    mix[:, :3] = _saturation(rng.uniform(0.4, 1.4))
    if rng.random() < _HUE_SHARE:
        mix[:, :3] = mix[:, :3] @ _hue_turn(rng.uniform(-math.pi, math.pi))
    mixed = picture.convert("RGB", tuple(mix.ravel().tolist()))

    values = np.linspace(0, 1, 256) ** (2 ** rng.uniform(-0.8, 0.8))
    if rng.random() < _NEGATIVE_SHARE:
        values = 1 - values
    values = (values - 0.5) * rng.uniform(0.5, 1.3) + 0.5 + rng.uniform(-0.15, 0.15)
    tables = np.outer(rng.uniform(0.85, 1.15, 3), values).clip(0, 1) * 255
    return mixed.point([round(value) for value in tables.ravel().tolist()])


def _saturation(factor: float) -> NDArray[np.float64]:
    return factor * np.eye(3) + (1 - factor) * np.tile(_LUMA, (3, 1))


def _hue_turn(angle: float) -> NDArray[np.float64]:
    """Turn colors around the gray axis."""
    cos, sin = math.cos(angle), math.sin(angle)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cos * np.eye(3) + (1 - cos) / 3 * np.ones((3, 3)) + sin * cross
