"""Which images a detector was trained and judged on. No torch.

Those it was judged on are kept beside it for the figures.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from efficientad.datasets import Category, Sample
from efficientad.errors import ResultError
from efficientad.storage import write_whole

_FILE: Final = "test_images.json"


def fingerprint(category: Category) -> str:
    """Give a hash of names, defect types and sizes in bytes of all its images.

    It is the same for a copy elsewhere.
    """
    lines = [
        f"{split} {category.name_of(sample)} {sample.defect_type} "
        f"{sample.path.stat().st_size if sample.path.is_file() else None}"
        for split, samples in category.splits.items()
        for sample in samples
    ]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def write_samples(samples: Sequence[Sample], folder: Path) -> None:
    """Keep the test images of a category in the folder of a training.

    Raises:
        StorageError: If they cannot be written.
    """
    kept = [
        {
            "path": str(sample.path.resolve()),
            "defect_type": sample.defect_type,
            "mask_path": sample.mask_path and str(sample.mask_path.resolve()),
        }
        for sample in samples
    ]
    write_whole(folder / _FILE, json.dumps(kept, indent=1).encode())


def read_samples(folder: Path) -> list[Sample]:
    """Give the test images that `write_samples` kept.

    Raises:
        ResultError: If there are none, or they cannot be read.
    """
    path = folder / _FILE
    try:
        return [
            Sample(
                Path(kept["path"]),
                kept["defect_type"],
                kept["mask_path"] and Path(kept["mask_path"]),
            )
            for kept in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"needed the list of test images, {path} cannot be read ({error}); give "
            "the folder that efficientad reproduce worked in"
        ) from error
