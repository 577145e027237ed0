"""Where the hard feature loss looks while a detector is trained (paper, Figure 4).

At some moments of a training, and for some of its images, the share of channels that
the loss averages at each place is kept in a file beside the detector.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from efficientad.datasets import Category, split_validation
from efficientad.errors import ResultError
from efficientad.images.rgb import INPUT_SIZE, read_image, resize_image
from efficientad.method.detector import FOR_TEACHER, Detector
from efficientad.method.inputs import normalize_images
from efficientad.method.losses import hard_feature_mask
from efficientad.storage import atomic_write
from efficientad.training.config import Recipe, TrainConfig

MOMENTS: Final = (0.0, 0.1, 0.5, 1.0)
"""Shares of the training that are done."""

_N_IMAGES: Final = 2


class HardMasks(NamedTuple):
    """What is kept of one moment."""

    pixels: NDArray[np.uint8]
    """(images, 256, 256, 3), RGB: training images, drawn by the seed."""
    masks: NDArray[np.float32]
    """(images, 56, 56): the share of channels that the hard feature loss averages."""


def mask_file(folder: Path, moment: float) -> Path:
    """Give the file of a moment in the folder of a training."""
    return folder / f"hard_masks_at_{round(100 * moment)}.npz"


def read_masks(path: Path) -> HardMasks:
    """Read the masks of one moment.

    Raises:
        ResultError: If the file is not one of these.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return HardMasks(arrays["pixels"], arrays["masks"])
    except (OSError, ValueError, KeyError) as error:
        raise ResultError(
            f"needed masks of the hard feature loss, {path} cannot be read ({error}); "
            "remove it and its run, and make that again"
        ) from error


class HardMaskRecorder:
    """Keeps the masks of a training; to be called at each of its steps.

    Args:
        category: What is trained on.
        config: Of the training.
        recipe: Likewise.
        folder: Where the files go.
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


def _drawn(category: Category, config: TrainConfig) -> list[Path]:
    """Draw some images of the training, not of those held out."""
    paths = [sample.path for sample in category.train]
    if not category.validation and config.validation is None:
        paths, _ = split_validation(paths, config.validation_share, config.seed)
    rng = np.random.default_rng(config.seed)
    return [paths[i] for i in rng.choice(len(paths), min(_N_IMAGES, len(paths)), False)]  # noqa: FBT003 - without putting back
