"""How defects are annotated: masks and, in MVTec LOCO, channels with saturation areas.

A mask marks defective pixels. In MVTec LOCO an image may have several masks, called
channels, and the value of a pixel says which type of defect it belongs to; the file
`defects_config.json` gives the saturation area of each value.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from efficientad.datasets.samples import Sample
from efficientad.errors import ConfigError, DatasetError
from efficientad.images.listing import describe_contents, find_images
from efficientad.images.rgb import Labels, Mask, read_labels, read_mask

_Array = TypeVar("_Array", Mask, Labels)


@dataclass(frozen=True, slots=True)
class SaturationArea:
    """The part of a defect that is enough to count as found completely.

    A missing object, for example, is marked wherever it could have been, and finding
    one of these places is enough.
    """

    size: float
    """Pixels, at least 1; or, if relative, a share of the defect's area, in (0, 1]."""

    is_relative: bool
    """Whether `size` is a share of the defect's area."""

    def __post_init__(self) -> None:
        if self.is_relative and not 0 < self.size <= 1:
            raise ConfigError(
                f"a relative saturation area must be in (0, 1], got {self.size}"
            )
        if not self.is_relative and not 1 <= self.size < np.inf:
            raise ConfigError(
                f"an absolute saturation area must be at least 1 pixel, got {self.size}"
            )

    def of_defect(self, area: int) -> float:
        """Return the saturation area in pixels of a defect of `area` pixels.

        It is at least 1 and at most `area`. A share is rounded down to whole pixels, as
        in MVTec's evaluation script.
        """
        if self.is_relative:
            return float(max(int(self.size * area), 1))
        return float(min(self.size, area))


def read_saturation_areas(defects_config: Path) -> dict[int, SaturationArea]:
    """Return the saturation area of each mask value, from `defects_config.json`.

    Raises:
        DatasetError: If the file does not exist, is no list of entries, or an entry
            lacks a field or has a value out of range.
    """
    wrong: object = "no list of objects"
    try:
        entries = json.loads(defects_config.read_text(encoding="utf-8"))
        if isinstance(entries, list) and all(isinstance(e, dict) for e in entries):
            return dict(_area_of_value(i, entry) for i, entry in enumerate(entries))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        wrong = error
    raise DatasetError(
        f"the saturation areas of MVTec LOCO were needed, {defects_config} cannot be "
        f"used ({wrong}); take the file that comes with the category"
    )


def read_defect_mask(sample: Sample, height: int, width: int) -> Mask:
    """Return which pixels of an image are annotated as defective.

    Several masks of one image are joined. An empty mask is allowed: the image is
    defective, and no pixel of it is marked. A normal image has no defective pixel.

    Raises:
        DatasetError: If a defective image has no mask, or one of another size.
        ImageError: If a mask cannot be read, or is stored with loss.
    """
    defect_mask = np.zeros((height, width), np.bool_)
    read = partial(read_mask, background=sample.background)
    for mask in _masks(read, sample, height, width):
        defect_mask |= mask
    return defect_mask


def read_annotation_channels(sample: Sample, height: int, width: int) -> list[Labels]:
    """Return the annotation channels of an image of MVTec LOCO, one for each file.

    They are 0, or inside a defect the value of its type. A normal image has none.

    Raises:
        DatasetError: If a defective image has no mask, or one of another size.
        ImageError: If a mask cannot be read, is in color, or is stored with loss.
    """
    return list(_masks(read_labels, sample, height, width))


def mask_files(sample: Sample) -> list[Path]:
    """Return the mask files of an image: none of a normal one, else at least one.

    Raises:
        DatasetError: If a defective image has none.
    """
    mask_path = sample.mask_path
    if not sample.is_defect:
        return []
    if mask_path is None:
        raise DatasetError(
            f"a mask was needed for {sample.path}, there is none; put "
            f"{sample.path.stem}_mask.png into ground_truth/{sample.defect_type}"
        )
    if not mask_path.is_dir():
        return [mask_path]
    files = find_images(mask_path)
    if not files:
        raise DatasetError(
            f"masks were needed in {mask_path}, it holds "
            f"{describe_contents(mask_path)}; put at least one PNG there"
        )
    return files


def require_size_of_image(
    mask: Mask | Labels, path: Path, sample: Sample, height: int, width: int
) -> None:
    """Raise `DatasetError` if a mask has another size than its image."""
    if mask.shape != (height, width):
        raise DatasetError(
            f"a mask must have its image's size, {path} has {mask.shape[1]} x "
            f"{mask.shape[0]} pixels and {sample.path} {width} x {height}; export it "
            "again at the size of the image"
        )


def _masks(
    read: Callable[[Path], _Array], sample: Sample, height: int, width: int
) -> Iterator[_Array]:
    for path in mask_files(sample):
        mask = read(path)
        require_size_of_image(mask, path, sample, height, width)
        yield mask


def _area_of_value(index: int, entry: Mapping[str, Any]) -> tuple[int, SaturationArea]:
    try:
        size = float(entry["saturation_threshold"])
        is_relative = bool(entry["relative_saturation"])
        return int(entry["pixel_value"]), SaturationArea(size, is_relative)
    except KeyError as error:
        raise DatasetError(
            f"each entry needs {error}, entry {index} has {', '.join(entry)}"
        ) from error
