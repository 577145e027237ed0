"""What is wrong with the masks of defective images; each is read once."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from efficientad.datasets.annotations import mask_files, read_saturation_areas
from efficientad.datasets.findings import Finding
from efficientad.datasets.folders import DEFECTS_CONFIG, MVTEC_LOCO_DEFECTS
from efficientad.datasets.samples import Category, Sample
from efficientad.errors import DatasetError, ImageError
from efficientad.images.listing import join_names
from efficientad.images.rgb import Labels, Mask, read_labels, read_mask


class MaskCheck:
    """The masks of a category as they are read, and what is wrong with them.

    Args:
        category: Says which kind of annotation its images have.
    """

    def __init__(self, category: Category) -> None:
        self._category = category
        self._found: list[Finding] = []
        self._empty: list[Path] = []
        self._without_mask: list[Path] = []
        self._unknown: dict[Path, list[int]] = {}
        self._known: Collection[int] | None = None
        """Values with a saturation area. None: not asked for, or not to be read."""
        if category.defects_config is not None:
            try:
                self._known = read_saturation_areas(category.defects_config)
            except DatasetError as error:
                self._note(str(error), category.defects_config)

    def read(self, sample: Sample, height: int, width: int) -> None:
        """Read the masks of a defective image, which has the given size."""
        if sample.mask_path is None:
            self._without_mask.append(sample.path)
            return
        if not sample.mask_path.exists():
            return  # a list names it; noted with the layout
        try:
            files = mask_files(sample)
        except DatasetError as error:
            self._note(str(error), sample.mask_path)
            return
        masks = [self._read(path, sample, height, width) for path in files]
        if not any(mask is None or mask.any() for mask in masks):
            self._empty.append(sample.mask_path)

    def findings(self) -> Iterator[Finding]:
        """Give what is wrong with the masks that were read, and with missing ones."""
        yield from self._found
        yield from self._unknown_values()
        yield from self._missing_config()
        if self._empty:
            yield Finding(
                "mask",
                "warning",
                f"{len(self._empty)} masks of defects mark no pixel: "
                f"{self._some(self._empty)}; in pixel metrics all pixels of these "
                "images count as normal",
                tuple(self._empty),
            )
        if self._without_mask:
            yield Finding(
                "mask",
                "warning",
                f"{len(self._without_mask)} defective images have no mask: "
                f"{self._some(self._without_mask)}; they take no part in pixel metrics",
                tuple(self._without_mask),
            )

    def _read(
        self, path: Path, sample: Sample, height: int, width: int
    ) -> Mask | Labels | None:
        """Read one file as an evaluation does; None if it cannot be read."""
        has_values = self._category.defects_config is not None
        try:
            mask = read_labels(path) if has_values else read_mask(path)
        except ImageError as error:
            self._note(str(error), path)
            return None
        if mask.shape != (height, width):
            self._note(
                f"a mask must have its image's size, {path} has "
                f"{mask.shape[1]} x {mask.shape[0]} pixels and {sample.path} "
                f"{width} x {height}",
                path,
            )
        if self._known is not None:
            values = np.unique(mask[mask != 0]).tolist()
            unknown = [value for value in values if value not in self._known]
            if unknown:
                self._unknown[path] = unknown
        return mask

    def _unknown_values(self) -> Iterator[Finding]:
        if not self._unknown or self._known is None:
            return
        named = join_names(
            f"{self._name(path)} ({join_names(map(str, values))})"
            for path, values in self._unknown.items()
        )
        yield Finding(
            "mask",
            "error",
            "each value in a mask needs a saturation area, "
            f"{self._category.defects_config} has them for "
            f"{', '.join(map(str, sorted(self._known))) or 'no value'}, "
            f"others are in {named}; correct them, or take the file that comes with "
            "the category",
            tuple(self._unknown),
        )

    def _missing_config(self) -> Iterator[Finding]:
        """Notice MVTec LOCO without its saturation areas; names may be by chance."""
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

    def _note(self, message: str, path: Path) -> None:
        self._found.append(Finding("mask", "error", message, (path,)))

    def _some(self, paths: Iterable[Path]) -> str:
        return join_names(map(self._name, paths))

    def _name(self, path: Path) -> str:
        root = self._category.root
        return str(path.relative_to(root) if path.is_relative_to(root) else path)
