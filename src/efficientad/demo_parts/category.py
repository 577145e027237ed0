"""Pictures of parts, one by one or as a category: nothing to download.

    FOLDER/train/good/000.png                     normal images
    FOLDER/test/good/000.png                      other normal images
    FOLDER/test/TYPE/000.png                      one folder for each defect type
    FOLDER/ground_truth/TYPE/000_mask.png         where the defect is

Every image has a seed of its own, made from the category's seed, its folder and its
number: asking for more images leaves the others as they are. The folder gets its name
when the last image is drawn.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.demo_parts.canvas import Pose
from efficientad.demo_parts.defects import (
    DEFECT_TYPES,
    DefectType,
    with_defect,
)
from efficientad.demo_parts.part import normal_part
from efficientad.demo_parts.photograph import photograph, random_light
from efficientad.demo_parts.surfaces import brushed_grain, difference, paint
from efficientad.errors import ConfigError, DatasetError
from efficientad.images.rgb import Mask, RGBImage
from efficientad.storage import atomic_folder

_MIN_SIZE: Final = 64

# The lowest: noise hardly compresses, and trying takes as long as drawing.
_COMPRESS_LEVEL: Final = 1

_MAX_SHIFT: Final = 3.0
_MAX_TURN: Final = float(np.deg2rad(2))  # radians


def draw_part(
    seed: int, defect_type: DefectType | None = None, size: int = 256
) -> tuple[RGBImage, Mask]:
    """Draw a part on a workbench.

    With the same seed, a part without a defect and one with it differ by the defect
    alone, and by its shadow: place, light, grain and noise are the same.

    Args:
        seed: Not negative.
        defect_type: None for a normal part.
        size: Of the image, pixels.

    Returns:
        The image, and which of its pixels show the defect.

    Raises:
        ConfigError: If seed, defect type or size is out of range.
    """
    _require_known(seed, defect_type, size)
    streams = np.random.SeedSequence(seed).spawn(5)
    assembly, place, lamp, sensor, fault = map(np.random.default_rng, streams)
    x, y, turn = place.uniform(-1, 1, 3) * (_MAX_SHIFT, _MAX_SHIFT, _MAX_TURN)
    pose = Pose(float(x), float(y), float(turn))
    grain = brushed_grain(pose, size, assembly)
    part = normal_part(assembly)
    surface = paint(part, pose, size, grain)
    mask = np.zeros((size, size), np.bool_)
    if defect_type is not None:
        faulty = paint(with_defect(part, defect_type, fault), pose, size, grain)
        surface, mask = faulty, difference(surface, faulty)
    return photograph(surface, random_light(lamp), sensor), mask


def write_category(
    folder: Path,
    *,
    n_train: int,
    n_test_good: int,
    n_per_defect: int,
    seed: int,
    size: int = 256,
) -> None:
    """Draw the images of a category, normal and defective, with exact masks.

    Args:
        folder: Does not exist yet, or is empty.
        n_train: Normal images in `train/good`.
        n_test_good: Normal images in `test/good`.
        n_per_defect: Images in `test/TYPE`, for each of the seven defect types.
        seed: Not negative. The same seed gives the same files.
        size: Of the images, pixels.

    Raises:
        ConfigError: If a number is out of range.
        DatasetError: If the folder holds something.
        StorageError: If a file cannot be written.
    """
    counts = {"n_train": n_train, "n_test_good": n_test_good}
    counts["n_per_defect"] = n_per_defect
    for name, count in counts.items():
        if count < 0:
            raise ConfigError(f"{name} must not be negative, got {count}")
    _require_known(seed, None, size)
    _require_empty(folder)
    wanted: list[tuple[str, DefectType | None, int]] = [
        ("train/good", None, n_train),
        ("test/good", None, n_test_good),
    ]
    wanted += [(f"test/{kind}", kind, n_per_defect) for kind in DEFECT_TYPES]
    with atomic_folder(folder) as drawn:
        for number, (inner, defect_type, count) in enumerate(wanted):
            for k in range(count):
                part_seed = _derived_seed(seed, number, k)
                image, mask = draw_part(part_seed, defect_type, size)
                _save(drawn / inner / f"{k:03}.png", image)
                if defect_type is not None:
                    path = drawn / "ground_truth" / defect_type / f"{k:03}_mask.png"
                    _save(path, mask.astype(np.uint8) * 255)


def _derived_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _require_known(seed: int, defect_type: str | None, size: int) -> None:
    if seed < 0:
        raise ConfigError(f"the seed must not be negative, got {seed}")
    if defect_type is not None and defect_type not in DEFECT_TYPES:
        raise ConfigError(
            f"the defect type must be one of {', '.join(DEFECT_TYPES)}, got "
            f"{defect_type}"
        )
    if size < _MIN_SIZE:
        raise ConfigError(f"the size must be at least {_MIN_SIZE} pixels, got {size}")


def _require_empty(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DatasetError(
            f"a new or empty folder was needed, {folder} is a file; give another one"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise DatasetError(
            f"a new or empty folder was needed, {folder} holds something; give another "
            "one, or remove what is there"
        )


def _save(path: Path, picture: RGBImage | NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, "PNG", compress_level=_COMPRESS_LEVEL)
