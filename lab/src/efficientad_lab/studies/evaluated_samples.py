"""Which images a detector was trained and judged on, by which masks. No torch.

Those it was judged on are kept beside it for the figures.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from efficientad.datasets import Category, Sample
from efficientad.datasets.annotations import mask_files
from efficientad.errors import DatasetError, ResultError, StorageError
from efficientad.storage import file_hash, write_atomically

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
    return _hash(lines)


def annotations_fingerprint(category: Category) -> str:
    """Give a hash of all masks and of what their values mean, contents included.

    It is the same for a copy elsewhere. What cannot be read counts as missing.
    """
    lines = [
        f"{category.name_of(sample)} {_hashes_of_masks(sample)}"
        for sample in category.test
        if sample.mask_path is not None
    ]
    config = category.defects_config
    return _hash([*lines, f"config {config and file_hash(config)}"])


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
    write_atomically(folder / _FILE, json.dumps(kept, indent=1).encode())


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


def _hashes_of_masks(sample: Sample) -> list[str]:
    with suppress(DatasetError, StorageError):
        return [file_hash(file) for file in mask_files(sample)]
    return []


def _hash(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
