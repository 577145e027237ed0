"""Reviewed parts as a data set that `efficientad train` and `evaluate` read.

    FOLDER/train/good/ID.png      normal parts
    FOLDER/test/good/ID.png       other normal parts, a fifth of them
    FOLDER/test/TYPE/ID.png       defective parts, one folder for each defect type
    FOLDER/reviews.json           verdict, person and time of each part

Files are the originals, or PNG files where these have blue first. A part stays on its
side of the split in every export.
"""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import Image

from efficientad.datasets.samples import is_normal_name
from efficientad.errors import DatasetError
from efficientad.images.rgb import ColorOrder, read_image
from efficientad.station.chance import chance
from efficientad.storage import atomic_folder

Verdict = Literal["normal", "defect", "unsure"]

_TEST_SHARE: Final = 0.2
_UNNAMED: Final = "defect"
_RESERVED: Final = frozenset({"ground_truth"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedPart:
    """A part with its last verdict."""

    id: str
    path: Path
    """The original image."""
    color: ColorOrder
    """Order in which it has red, green and blue."""
    verdict: Verdict
    defect_type: str | None
    note: str | None
    by: str
    at: str
    """UTC, ISO 8601."""
    source: str


@dataclass(frozen=True, slots=True)
class Export:
    """Numbers of an exported data set."""

    n_train: int
    n_test_good: int
    n_defects: int
    n_unsure: int
    """Parts that are left out, since nobody is sure."""
    n_missing: int
    """Parts that are left out, since their images were removed."""


def export_dataset(parts: Iterable[ReviewedPart], folder: Path) -> Export:
    """Write reviewed parts, each once, as a data set to a new or empty folder.

    Raises:
        DatasetError: If no part can be exported.
        StorageError: If the folder cannot be written.
    """
    counts = {"train": 0, "good": 0, "defect": 0, "unsure": 0, "missing": 0}
    notes = []
    with atomic_folder(folder) as made:
        for part in parts:
            if part.verdict == "unsure":
                counts["unsure"] += 1
                continue
            if not part.path.is_file():
                counts["missing"] += 1
                continue
            inner, count = _place(part)
            copy = made / inner / f"{part.id}{part.path.suffix}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            if part.color == "rgb":
                shutil.copyfile(part.path, copy)
            else:
                copy = copy.with_suffix(".png")
                Image.fromarray(read_image(part.path, part.color)).save(copy)
            counts[count] += 1
            image = copy.relative_to(made).as_posix()
            notes.append(asdict(part) | {"path": image, "color": "rgb"})
        if not notes:
            raise DatasetError(
                "a data set needs parts with the verdict normal or defect, got none "
                f"with an image; review some first ({counts['unsure']} are unsure, "
                f"{counts['missing']} without image)"
            )
        text = json.dumps(notes, ensure_ascii=False, indent=1)
        (made / "reviews.json").write_text(text, encoding="utf-8")
    return Export(*counts.values())


def _place(part: ReviewedPart) -> tuple[str, str]:
    """Return folder and kind of a part in the data set."""
    if part.verdict == "defect":
        return f"test/{folder_of(part.defect_type)}", "defect"
    if chance(part.id, "split") < _TEST_SHARE:
        return "test/good", "good"
    return "train/good", "train"


def folder_of(defect_type: str | None) -> str:
    """Return the folder name of a defect type: letters, digits, `_` and `-`."""
    name = re.sub(r"[^\w-]+", "_", (defect_type or "").strip()).strip("_")[:80]
    if not name or is_normal_name(name) or name in _RESERVED:
        return f"{_UNNAMED}_{name}" if name else _UNNAMED
    return name
