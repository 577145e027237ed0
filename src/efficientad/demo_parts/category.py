"""Pictures of parts, one by one or as a category; nothing is downloaded.

    FOLDER/train/good/000.png                     normal images
    FOLDER/test/good/000.png                      other normal images
    FOLDER/test/TYPE/000.png                      one folder for each defect type
    FOLDER/ground_truth/TYPE/000_mask.png         where the defect is

Every image has a seed of its own, made from the category's seed, its folder and its
number: more images leave the others unchanged.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.demo_parts.canvas import Pose
from efficientad.demo_parts.parts import (
    DEFECT_TYPES,
    DEFECTS,
    DefectType,
    Fault,
    normal_part,
)
from efficientad.demo_parts.photograph import photograph
from efficientad.demo_parts.surfaces import brushed_grain, difference, paint
from efficientad.errors import DatasetError
from efficientad.images.rgb import Mask, RGBImage
from efficientad.storage import atomic_folder

# The lowest: noise hardly compresses, and trying takes as long as drawing.
_COMPRESS_LEVEL: Final = 1

_MAX_SHIFT: Final = 3.0
_MAX_TURN: Final = float(np.deg2rad(2))


def draw_part(
    seed: int, defect_type: DefectType | None = None, size: int = 256
) -> tuple[RGBImage, Mask]:
    """Return the picture of a part on a workbench, and the mask of its defect.

    Pictures of the same seed with and without a defect differ only by the defect and
    its shadow: place, light, grain and noise are the same. The size, width and height
    in pixels, is at least 64.
    """
    return drawn(seed, size, None if defect_type is None else DEFECTS[defect_type])


def drawn(
    seed: int, size: int, with_fault: Fault | None = None
) -> tuple[RGBImage, Mask]:
    """Return the picture of a part, and the mask of its fault, if it gets one."""
    streams = np.random.SeedSequence(seed).spawn(5)
    assembly, place, lamp, sensor, fault = map(np.random.default_rng, streams)
    x, y, turn = place.uniform(-1, 1, 3) * (_MAX_SHIFT, _MAX_SHIFT, _MAX_TURN)
    pose = Pose(float(x), float(y), float(turn))
    grain = brushed_grain(pose, size, assembly)
    part = normal_part(assembly)
    surface = paint(part, pose, size, grain)
    mask = np.zeros((size, size), np.bool_)
    if with_fault is not None:
        faulty = paint(with_fault(part, fault), pose, size, grain)
        surface, mask = faulty, difference(surface, faulty)
    return photograph(surface, lamp, sensor), mask


def write_category(
    folder: Path,
    *,
    n_train: int,
    n_test_good: int,
    n_per_defect: int,
    seed: int,
    size: int = 256,
) -> None:
    """Write the images of a category, normal and defective, with exact masks.

    The folder appears when all images are drawn. `n_per_defect` of them are in each
    `test/TYPE`. The same seed gives the same files.

    Raises:
        DatasetError: If the folder holds something.
        StorageError: If a file cannot be written.
    """
    _require_empty(folder)
    wanted: list[tuple[str, DefectType | None, int]] = [
        ("train/good", None, n_train),
        ("test/good", None, n_test_good),
        *((f"test/{kind}", kind, n_per_defect) for kind in DEFECT_TYPES),
    ]
    with atomic_folder(folder) as drawn:
        for number, (inner, defect_type, count) in enumerate(wanted):
            for k in range(count):
                sequence = np.random.SeedSequence((seed, number, k))
                part_seed = int(sequence.generate_state(1, np.uint64)[0])
                image, mask = draw_part(part_seed, defect_type, size)
                _save(drawn / inner / f"{k:03}.png", image)
                if defect_type is not None:
                    path = drawn / "ground_truth" / defect_type / f"{k:03}_mask.png"
                    _save(path, mask.astype(np.uint8) * 255)


def _require_empty(folder: Path) -> None:
    is_folder = folder.is_dir()
    if any(folder.iterdir()) if is_folder else folder.exists():
        wrong = "is a file; give another one"
        if is_folder:
            wrong = "holds something; give another one, or remove what is there"
        raise DatasetError(f"a new or empty folder was needed, {folder} {wrong}")


def _save(path: Path, picture: RGBImage | NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, "PNG", compress_level=_COMPRESS_LEVEL)
