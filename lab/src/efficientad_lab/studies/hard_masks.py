"""Masks of the hard feature loss in the course of a training (paper, Figure 4).

At some moments, and for some training images, a file beside the detector gets the share
of channels that the loss averages at each place.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from efficientad.datasets import Category, split_validation
from efficientad.errors import ResultError
from efficientad.images.rgb import INPUT_SIZE, read_image, resize_image
from efficientad.method.detector import FOR_TEACHER, Detector
from efficientad.method.inputs import normalize_images
from efficientad.method.losses import Descriptors, is_at_least_quantile
from efficientad.storage import atomic_write
from efficientad.training.config import Recipe, TrainConfig

MOMENTS: Final = (0.0, 0.1, 0.5, 1.0)
"""Shares of the training, in [0, 1]."""

_N_IMAGES: Final = 2


class HardMasks(NamedTuple):
    """Training images and their masks at one moment."""

    pixels: NDArray[np.uint8]
    """RGB images drawn by the seed, (n_images, 256, 256, 3)."""
    masks: NDArray[np.float32]
    """Share of channels that the loss averages, (n_images, 56, 56)."""


def mask_file(folder: Path, moment: float) -> Path:
    """Return the file of a moment in the folder of a training."""
    return folder / f"hard_masks_at_{round(100 * moment)}.npz"


def read_masks(path: Path) -> HardMasks:
    """Read the masks of one moment.

    Raises:
        ResultError: If the file has no masks.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return HardMasks(arrays["pixels"], arrays["masks"])
    except (OSError, ValueError, KeyError) as error:
        raise ResultError(
            f"needed masks of the hard feature loss, {path} cannot be read ({error}); "
            "remove it and its run, and make the run again"
        ) from error


class HardMaskRecorder:
    """Records the masks of a training; the training calls it at each step.

    Args:
        category: Training images.
        config: Settings of the training.
        recipe: Recipe of the training.
        folder: Folder for the files.
    """

    def __init__(
        self, category: Category, config: TrainConfig, recipe: Recipe, folder: Path
    ) -> None:
        self._moment_of_step = {
            round(share * recipe.steps): share for share in reversed(MOMENTS)
        }
        self._p_hard = recipe.p_hard
        self._folder = folder
        self._paths = _drawn(category, config)

    def __call__(self, n_steps_done: int, detector: Detector) -> None:
        """Write the masks if this is one of the moments."""
        moment = self._moment_of_step.get(n_steps_done)
        if moment is None:
            return
        path = mask_file(self._folder, moment)
        pixels = np.stack(
            [resize_image(read_image(p), INPUT_SIZE, INPUT_SIZE) for p in self._paths]
        )
        masks = self._masks(pixels, detector)
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, pixels=pixels, masks=masks)

    @torch.no_grad()
    def _masks(
        self, pixels: NDArray[np.uint8], detector: Detector
    ) -> NDArray[np.float32]:
        images = normalize_images(torch.from_numpy(pixels).to(detector.device))
        student = detector.student(images)[:, FOR_TEACHER]
        mask = hard_feature_mask(detector.describe(images), student, self._p_hard)
        masks: NDArray[np.float32] = mask.cpu().numpy()
        return masks


def hard_feature_mask(
    teacher: Descriptors, student: Descriptors, p_hard: float
) -> Float[Tensor, "batch rows columns"]:
    """Return the share of channels that the hard feature loss averages at each cell."""
    distances = (teacher - student).square()
    is_hard = is_at_least_quantile(distances.flatten(1), p_hard)
    return is_hard.view(distances.shape).float().mean(1)


def _drawn(category: Category, config: TrainConfig) -> list[Path]:
    """Draw some training images, none of those held out."""
    paths = [sample.path for sample in category.train]
    if not category.validation and config.validation is None:
        paths, _ = split_validation(paths, config.validation_share, config.seed)
    rng = np.random.default_rng(config.seed)
    return [paths[i] for i in rng.choice(len(paths), min(_N_IMAGES, len(paths)), False)]  # noqa: FBT003 - without replacement
