"""What a data set is made of: samples, their masks, and the category they belong to."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from efficientad.errors import DatasetError
from efficientad.images.rgb import (
    Labels,
    Mask,
    find_images,
    listing,
    read_labels,
    read_mask,
)

Collection: TypeAlias = Literal["mvtec_ad", "visa", "mvtec_loco", "plain"]
"""The published collection a category belongs to; `plain`: none of them."""

Split: TypeAlias = Literal["train", "validation", "test"]

NORMAL: Final = "good"
"""The defect type of images without a defect, and the name of their folder."""

_N_NAMES_SHOWN: Final = 5

# Of JPEG's and WebP's masks nobody knows which of the values are noise.
_MASK_SUFFIXES: Final = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and what is known about it."""

    path: Path
    defect_type: str
    """Name of its folder; `good` where there is no defect."""

    mask_path: Path | None = None
    """A file, or a folder of several masks. None: normal, or nobody annotated it."""

    @property
    def is_defect(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect_type != NORMAL


@dataclass(frozen=True, slots=True)
class Category:
    """One product and its images: a scenario, where it is part of a collection."""

    name: str
    root: Path
    """The folder that was opened, or that the list lies in."""
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    """Normal ones first, then by defect type."""
    collection: Collection = "plain"
    defects_config: Path | None = None
    """MVTec LOCO's `defects_config.json`: the saturation area of each mask value. None:
    masks have no values, each connected group of their pixels is one defect."""

    @property
    def splits(self) -> dict[Split, tuple[Sample, ...]]:
        """The samples by the name of their split."""
        return {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }

    def name_of(self, sample: Sample) -> str:
        """Give a sample's path within the category, or its whole path if it is not."""
        if sample.path.is_relative_to(self.root):
            return str(sample.path.relative_to(self.root))
        return str(sample.path)


def read_defect_mask(sample: Sample, height: int, width: int) -> Mask:
    """Read which pixels of an image are annotated as defective.

    Several masks of one image are joined. All may be false: some defects are known, but
    nowhere in particular.

    Args:
        sample: A normal one has no defective pixel.
        height: Of its image in pixels.
        width: Of its image in pixels.

    Raises:
        DatasetError: If a defective image has no mask, or one of another size.
        ImageError: If a mask cannot be read.
    """
    defect_mask = np.zeros((height, width), np.bool_)
    if sample.is_defect:
        for path in mask_files(sample):
            mask = read_mask(path)
            _check_size(mask.shape, defect_mask.shape, path, sample)
            defect_mask |= mask
    return defect_mask


def read_annotation_channels(sample: Sample, height: int, width: int) -> list[Labels]:
    """Read the annotation channels of an image, as in MVTec LOCO: one for each file.

    Args:
        sample: A normal one has none.
        height: Of its image in pixels.
        width: Of its image in pixels.

    Returns:
        Each (height, width), integers: 0, and inside a defect the value of its type.

    Raises:
        DatasetError: If a defective image has no mask, or one of another size.
        ImageError: If a mask cannot be read, or is in color.
    """
    channels = []
    for path in mask_files(sample) if sample.is_defect else ():
        channel = read_labels(path)
        _check_size(channel.shape, (height, width), path, sample)
        channels.append(channel)
    return channels


def mask_files(sample: Sample) -> list[Path]:
    """List the files with the masks of a defective image, at least one.

    Raises:
        DatasetError: If there is none.
    """
    mask_path = sample.mask_path
    if mask_path is None:
        raise DatasetError(
            f"a mask was needed for {sample.path}, there is none; put "
            f"{sample.path.stem}_mask.png into ground_truth/{sample.defect_type}"
        )
    if not mask_path.is_dir():
        return [mask_path]
    files = [path for path in find_images(mask_path) if is_mask(path)]
    if not files:
        raise DatasetError(
            f"masks were needed in {mask_path}, it holds {contents(mask_path)}; put "
            "at least one PNG there"
        )
    return files


def is_mask(path: Path) -> bool:
    """Tell whether a file of this name may hold a mask."""
    return path.suffix.lower() in _MASK_SUFFIXES


def subfolders(folder: Path) -> list[Path]:
    """List the visible folders in a folder.

    Raises:
        DatasetError: If it cannot be listed.
    """
    with listing(folder):
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
        return sorted(path for path in visible if path.is_dir())


def contents(folder: Path) -> str:
    """Say what a folder holds, for a message."""
    n_images = len(find_images(folder))
    text = f"{n_images or 'no'} image{'' if n_images == 1 else 's'}"
    folders = subfolders(folder)
    if folders:
        inner = some(f"{path.name} ({len(find_images(path))})" for path in folders)
        text += f" and the folders {inner} (images in them)"
    return text


def some(names: Iterable[str]) -> str:
    """Join the first few names, for a message."""
    listed = list(names)
    text = ", ".join(listed[:_N_NAMES_SHOWN])
    n_more = len(listed) - _N_NAMES_SHOWN
    return f"{text} and {n_more} more" if n_more > 0 else text


def _check_size(
    mask_shape: tuple[int, ...], shape: tuple[int, ...], path: Path, sample: Sample
) -> None:
    if mask_shape != shape:
        raise DatasetError(
            f"a mask must have its image's size, {path} has {mask_shape[1]} x "
            f"{mask_shape[0]} pixels and {sample.path} {shape[1]} x {shape[0]}; "
            "export it again at the size of the image"
        )
