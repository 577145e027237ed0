"""The normal images of a training: read, checked and split."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from efficientad.calibration.rule_files import rule_of
from efficientad.calibration.rule_options import RuleOptions
from efficientad.datasets import (
    MIN_NORMAL_IMAGES,
    Category,
    normal_image_paths,
    require_disjoint,
    split_validation,
)
from efficientad.decisions.rule import Rule
from efficientad.engines.names import AlignChoice
from efficientad.errors import ConfigError, DatasetError, ImageError
from efficientad.images.alignment import Alignment, fit_alignment, gray_of, is_worth_it
from efficientad.images.levels import Levels
from efficientad.images.listing import join_names
from efficientad.images.preparation import AS_IT_IS, Preparation
from efficientad.images.rgb import ImageLike, as_rgb, image_hash, resize_image
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.tiling import WHOLE, Size, require_similar_aspect
from efficientad.progress import tracked

ChooseSize = Callable[[Size], Size]
"""Function of an image's height and width to the input size."""

_N_FOR_ALIGNMENT: Final = 64
_MEMORY_SHARE: Final = 0.4
"""Share of the machine's memory that images may take."""

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
"""Images at the input size, (n, height, width, 3), RGB: 256 x 256 without tiles."""


@dataclass(frozen=True, eq=False)
class NormalImages:
    """Images at the input size, with the hash of each original's pixels."""

    pixels: Pixels
    """(n, height, width, 3), RGB."""
    hashes: tuple[str, ...]
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each original in pixels."""
    preparation: Preparation = AS_IT_IS
    """How they were read, aligned and resized."""

    @property
    def size(self) -> Size:
        """Height and width of the images at the input size."""
        return self.preparation.size

    def __len__(self) -> int:
        return len(self.names)

    @property
    def hash_of_name(self) -> dict[str, str]:
        """Hash of each image by its name."""
        return dict(zip(self.names, self.hashes, strict=True))

    def subset(self, indices: Sequence[int]) -> "NormalImages":
        """Return some of the images."""
        return NormalImages(
            self.pixels[list(indices)],
            tuple(self.hashes[i] for i in indices),
            tuple(self.names[i] for i in indices),
            tuple(self.sizes[i] for i in indices),
            self.preparation,
        )


def read_normal_images(
    images: Sequence[ImageLike],
    preparation: Preparation = AS_IT_IS,
    choose_size: ChooseSize | None = None,
) -> NormalImages:
    """Return images, read and prepared.

    Args:
        images: The images.
        preparation: How they are read, aligned and resized.
        choose_size: Function from the first one's size to the input size. None: that
            of the preparation.

    Raises:
        ConfigError: If they need more memory than there is.
        ImageError: If one cannot be used; the message names it.
    """
    chosen, pixels = preparation.size, np.empty((0, *WHOLE, 3), np.uint8)
    hashes, names, sizes = [], [], []
    for index, image in enumerate(tracked(images, len(images), "reading")):
        name = f"image {index}"
        if isinstance(image, (str, Path)):
            name = str(Path(image).absolute())  # an export finds it from any folder
        names.append(name)
        rgb = preparation.read(image, name)
        hashes.append(image_hash(rgb))
        sizes.append((rgb.shape[0], rgb.shape[1]))
        if index == 0:
            chosen = choose_size(sizes[0]) if choose_size else chosen
            _require_memory(len(images), chosen)
            pixels = np.empty((len(images), *chosen, 3), np.uint8)
        require_similar_aspect(sizes[-1], chosen)
        if preparation.alignment is not None:
            try:
                rgb = preparation.alignment.pose(rgb).aligned(rgb)
            except ImageError as error:
                raise ImageError(f"{name}: {error}") from error
        pixels[index] = resize_image(rgb, *chosen)
    prepared = replace(preparation, size=chosen)
    return NormalImages(pixels, tuple(hashes), tuple(names), tuple(sizes), prepared)


def read_other_images(
    images: Path | str | Sequence[ImageLike],
    predictor: Predictor,
    rule: RuleOptions | None,
) -> tuple[NormalImages, Rule]:
    """Return normal images for a trained model, and the rule of its decision on them.

    Args:
        images: Images or their folder. Copies of an image count once.
        predictor: Trained model.
        rule: Region of interest and least area of a defect. None: the model's own.

    Raises:
        DatasetError: If there are none, or some were trained on.
        ImageError: If one cannot be used, or has another aspect than the region.
    """
    if isinstance(images, (str, Path)):
        images, _ = normal_image_paths(Path(images), min_images=1)
    normal = without_duplicates(read_normal_images(images, predictor.preparation))
    trained_on = predictor.provenance.get("training_images", {})
    require_disjoint(normal.hash_of_name, trained_on)
    decided_by = rule_of(rule, normal.sizes) if rule else predictor.calibration.rule
    for size in normal.sizes:
        decided_by.require_aspect(*size)
    for image in normal.pixels:
        predictor.compare_colors(image)
    return normal, decided_by


def alignment_of(
    images: Sequence[ImageLike],
    align: AlignChoice | None,
    levels: Levels | None = None,
) -> Alignment | None:
    """Return the alignment of the part that images show, or None for none.

    Args:
        images: Training images; up to 64 of them are read.
        align: Whether to align. None: if they agree far better when they are aligned.
        levels: Values of 16-bit images that become 0 and 255.

    Raises:
        ImageError: If one cannot be used.
    """
    # Deviation: the paper takes all images as the parts lie.
    if align == "never":
        return None
    chosen = images[:: -(-len(images) // _N_FOR_ALIGNMENT)]
    grays, aspect = [], 1.0
    for index, image in enumerate(tracked(chosen, len(chosen), "aligning")):
        rgb = as_rgb(image, f"image {index}", levels=levels)
        grays.append(gray_of(rgb))
        aspect = rgb.shape[1] / rgb.shape[0]
    alignment = fit_alignment(grays, aspect)
    if align == "always":
        return alignment
    if not is_worth_it(alignment, grays):
        return None
    logger.info(
        "the parts lie in different places and are aligned; --align never leaves them"
    )
    return alignment


def _require_memory(n: int, size: Size) -> None:
    if size == WHOLE or not hasattr(os, "sysconf"):
        return
    needed = n * size[0] * size[1] * 3
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > _MEMORY_SHARE * there:
        raise ConfigError(
            f"{n} images in tiles need {needed / 1e9:.1f} GB of memory, this machine "
            f"has {there / 1e9:.1f}; give a smaller --scale, fewer images, or --tile "
            "never"
        )


def training_and_validation(
    images: Path | str | Category | Sequence[ImageLike],
    *,
    validation: Path | None,
    validation_share: float,
    seed: int,
    size: ChooseSize | None = None,
    align: AlignChoice | None = "never",
    levels: Levels | None = None,
) -> tuple[NormalImages, NormalImages]:
    """Return the training images and the held-out ones for calibration.

    Identical pictures count once, so none can be on both sides of a split.

    Args:
        images: Folder of normal images, category folder, opened category, or the
            images themselves.
        validation: Folder of other normal images. None: `validation/good` of a
            category, otherwise a share of the training images.
        validation_share: Share of the training images to hold out, in (0, 1).
        seed: Seed of the split.
        size: Function from the first one's size to the input size. None: 256 x 256.
        align: Whether to align them, as for `alignment_of`.
        levels: Values of 16-bit images that become 0 and 255.

    Raises:
        DatasetError: If there are too few images, or if training and validation share
            some.
        ImageError: If an image cannot be used.
    """
    held_out: Sequence[ImageLike] = []
    if isinstance(images, Category):
        held_out = [sample.path for sample in images.validation]
        images = [sample.path for sample in images.train]
    elif isinstance(images, (str, Path)):
        images, held_out = normal_image_paths(Path(images))
    if validation is not None:
        held_out, _ = normal_image_paths(validation, min_images=1)
    read = Preparation(levels=levels)
    read = replace(read, alignment=alignment_of(images, align, levels))
    training = without_duplicates(read_normal_images(images, read, size))
    if len(training) < MIN_NORMAL_IMAGES:
        raise DatasetError(
            f"needed at least {MIN_NORMAL_IMAGES} different normal images, got "
            f"{len(training)}; record more good parts"
        )
    _require_content(training)
    if held_out:
        others = read_normal_images(held_out, training.preparation)
        separate = without_duplicates(others)
        _require_content(separate)
        require_disjoint(separate.hash_of_name, training.hash_of_name)
        return training, separate
    chosen, rest = split_validation(range(len(training)), validation_share, seed)
    return training.subset(chosen), training.subset(rest)


def _require_content(images: NormalImages) -> None:
    """Warn of images of one color, as of a covered lens, or refuse if all are."""
    is_one_color = [bool((image == image[0, 0]).all()) for image in images.pixels]
    names = [images.names[index] for index in np.flatnonzero(is_one_color)]
    if len(names) == len(images):
        raise DatasetError(
            f"needed normal images that show a part, got {len(names)} of one color "
            f"each ({join_names(names)}); look at them and record good parts"
        )
    if names:
        logger.warning(
            "%d normal images have one color each and show no part (%s); look at them, "
            "and leave them out if something went wrong",
            len(names),
            join_names(names),
        )


def without_duplicates(images: NormalImages) -> NormalImages:
    """Return each picture once: a copy tells nothing more about what is normal."""
    first = {digest: i for i, digest in reversed(list(enumerate(images.hashes)))}
    if len(first) == len(images):
        return images
    return images.subset(sorted(first.values()))
