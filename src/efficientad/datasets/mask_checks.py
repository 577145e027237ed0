"""Faults of the masks of defective images; each mask is read once."""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from efficientad.datasets.annotations import (
    mask_files,
    read_saturation_areas,
    require_size_of_image,
)
from efficientad.datasets.findings import Finding
from efficientad.datasets.folders import DEFECTS_CONFIG
from efficientad.datasets.samples import MVTEC_LOCO_DEFECTS, Category, Sample
from efficientad.errors import DatasetError, ImageError
from efficientad.images.decoding import is_turned, opened_picture
from efficientad.images.listing import fault_of, join_names
from efficientad.images.rgb import Labels, Mask, read_labels, read_mask


class MaskCheck:
    """Reads the masks of a category one by one, and reports their faults at the end."""

    def __init__(self, category: Category) -> None:
        self._category = category
        self._found: list[Finding] = []
        self._empty: list[Path] = []
        self._without_mask: list[Path] = []
        self._not_turned: list[Path] = []
        self._unknown: dict[Path, list[int]] = {}
        self._known: Collection[int] | None = None
        """Values with a saturation area. None: not needed, or not readable."""
        if category.defects_config is not None:
            try:
                self._known = read_saturation_areas(category.defects_config)
            except DatasetError as error:
                self._note(error, category.defects_config)

    def read(
        self, sample: Sample, height: int, width: int, *, image_is_turned: bool
    ) -> None:
        """Read the masks of a defective image, of this height and width if upright."""
        if sample.mask_path is None:
            self._without_mask.append(sample.path)
            return
        if fault_of(sample.mask_path):
            return  # in a list, and a finding of its layout
        try:
            files = mask_files(sample)
        except DatasetError as error:
            self._note(error, sample.mask_path)
            return
        masks = [self._read(path, sample, height, width) for path in files]
        if all(mask is not None and not mask.any() for mask in masks):
            self._empty.append(sample.mask_path)
        if image_is_turned:
            read = [p for p, m in zip(files, masks, strict=True) if m is not None]
            for path in read:
                with opened_picture(path) as picture:
                    if not is_turned(picture):
                        self._not_turned.append(path)

    def findings(self) -> Iterator[Finding]:
        """Yield the faults of the masks that were read, and the missing masks."""
        yield from self._found
        if self._unknown:
            named = [
                f"{self._category.name_of(path)} ({join_names(map(str, values))})"
                for path, values in self._unknown.items()
            ]
            known = ", ".join(map(str, sorted(self._known or ()))) or "no value"
            yield Finding(
                "mask",
                "error",
                "each value in a mask needs a saturation area, "
                f"{self._category.defects_config} has them for {known}, others are in "
                f"{join_names(named)}; correct them, or take the file that comes with "
                "the category",
                tuple(self._unknown),
            )
        yield from self._missing_config()
        for paths, text, consequence in (
            (
                self._empty,
                "masks of defects mark no pixel",
                "in pixel metrics all pixels of these images count as normal",
            ),
            (
                self._without_mask,
                "defective images have no mask",
                "they take no part in pixel metrics",
            ),
            (
                self._not_turned,
                "masks have no EXIF orientation, and their images have one",
                "they must be drawn on the upright images, not on the stored pixels",
            ),
        ):
            if paths:
                names = join_names(map(self._category.name_of, paths))
                message = f"{len(paths)} {text}: {names}; {consequence}"
                yield Finding("mask", "warning", message, tuple(paths))

    def _read(
        self, path: Path, sample: Sample, height: int, width: int
    ) -> Mask | Labels | None:
        """Return one mask as an evaluation reads it, None if it cannot be read."""
        has_values = self._category.defects_config is not None
        try:
            mask = (
                read_labels(path) if has_values else read_mask(path, sample.background)
            )
        except ImageError as error:
            self._note(error, path)
            return None
        try:
            require_size_of_image(mask, path, sample, height, width)
        except DatasetError as error:
            self._note(error, path)
        if self._known is not None:
            values = np.unique(mask[mask != 0]).tolist()
            unknown = [value for value in values if value not in self._known]
            if unknown:
                self._unknown[path] = unknown
        return mask

    def _missing_config(self) -> Iterator[Finding]:
        root = self._category.root
        config = root / DEFECTS_CONFIG
        kinds = [k for k in MVTEC_LOCO_DEFECTS if (root / "test" / k).is_dir()]
        if kinds and not config.exists():
            yield Finding(
                "mask",
                "warning",
                f"{config} was expected beside MVTec LOCO's "
                f"{join_names(f'test/{kind}' for kind in kinds)}, there is none; "
                "without its saturation areas the category is evaluated by AU-PRO and "
                "not, as published, by AU-sPRO: take the file that comes with it",
                (config,),
            )

    def _note(self, error: DatasetError | ImageError, path: Path) -> None:
        self._found.append(Finding("mask", "error", str(error), (path,)))
