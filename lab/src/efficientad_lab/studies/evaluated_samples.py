"""Hashes of a study's images and masks, and the list of its test images. No torch here.

The list lies beside the detector, for the figures.
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
    """Return a hash of the names, defect types and file sizes of all images.

    A copy in another folder has the same hash.
    """
    lines = [
        f"{split} {category.name_of(sample.path)} {sample.defect_type} "
        f"{sample.path.stat().st_size if sample.path.is_file() else None}"
        for split, samples in category.splits.items()
        for sample in samples
    ]
    return _hash(lines)


def annotations_fingerprint(category: Category) -> str:
    """Return a hash of the contents of all masks and of their configuration.

    A copy in another folder has the same hash. Unreadable masks count as missing.
    """
    lines = [
        f"{category.name_of(sample.path)} {_hashes_of_masks(sample)}"
        for sample in category.test
        if sample.mask_path is not None
    ]
    config = category.defects_config
    return _hash([*lines, f"config {config and file_hash(config)}"])


def write_samples(samples: Sequence[Sample], folder: Path) -> None:
    """Write the list of test images to the folder of a training.

    Raises:
        StorageError: If the list cannot be written.
    """
    listed = [
        {
            "path": str(sample.path.resolve()),
            "defect_type": sample.defect_type,
            "mask_path": sample.mask_path and str(sample.mask_path.resolve()),
        }
        for sample in samples
    ]
    write_atomically(folder / _FILE, json.dumps(listed, indent=1).encode())


def read_samples(folder: Path) -> list[Sample]:
    """Read the list that `write_samples` wrote.

    Raises:
        ResultError: If the list is missing or cannot be read.
    """
    path = folder / _FILE
    try:
        return [
            Sample(
                Path(entry["path"]),
                entry["defect_type"],
                entry["mask_path"] and Path(entry["mask_path"]),
            )
            for entry in json.loads(path.read_text(encoding="utf-8"))
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
