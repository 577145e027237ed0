"""What happens in one training step: Algorithm 1 to the letter, and a quick variant.

Both draw everything from the generator they are given, and give the four losses.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.detector import FOR_AUTOENCODER, FOR_TEACHER, Detector
from efficientad.method.inputs import normalize_images
from efficientad.method.losses import (
    autoencoder_loss,
    hard_feature_loss,
    pretraining_penalty,
    student_autoencoder_loss,
)
from efficientad.method.networks import PATCH_SIZE, PATCH_STRIDE
from efficientad.method.placement import GRID_CELLS
from efficientad.natural_images.pictures import PretrainingImages
from efficientad.training.config import QuickRecipe, Recipe
from efficientad.training.kept_descriptors import KeptDescriptors
from efficientad.training.normal_images import Pixels

Loss = Float[Tensor, ""]

# Algorithm 1: brightness, contrast or saturation by a factor within these limits.
_COLOR_FACTORS = (0.8, 1.2)
# Weights of red, green and blue in gray, ITU-R BT.601, as Pillow and torchvision.
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)


class Losses(NamedTuple):
    """The four losses of a step; their sum is minimized."""

    hard: Loss
    penalty: Loss
    autoencoder: Loss
    student_autoencoder: Loss

    def total(self) -> Loss:
        """Sum with equal weights."""
        return self.hard + self.penalty + self.autoencoder + self.student_autoencoder


def vary_color(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast or saturation of each image by a random factor.

    Args:
        images: (batch, height, width, 3), 0 to 255, uint8.
        rng: One of the three and its factor are drawn for each image.

    Returns:
        The same shape, uint8.
    """
    varied = []
    for image in images.float():
        kind, factor = int(rng.integers(3)), float(rng.uniform(*_COLOR_FACTORS))
        gray = (image * image.new_tensor(_GRAY_WEIGHTS)).sum(-1, keepdim=True)
        anchor = (torch.zeros(()), gray.mean(), gray)[kind]
        blended = torch.lerp(anchor.expand_as(image).to(image), image, factor)
        varied.append(blended.clamp(0, 255).round())
    return torch.stack(varied).byte()


class PaperStep:
    """Algorithm 1: whole images, teacher computed anew, all losses everywhere."""

    def __init__(
        self,
        detector: Detector,
        pixels: Pixels,
        pretraining_images: PretrainingImages | None,
        recipe: Recipe,
    ) -> None:
        self._detector = detector
        self._pixels = torch.from_numpy(pixels)
        self._pretraining_images = pretraining_images
        self._recipe = recipe

    def losses(self, rng: np.random.Generator) -> Losses:
        """Draw images and compare the networks on them.

        Args:
            rng: Source of every draw.
        """
        detector, device = self._detector, self._detector.device
        detector.train()
        chosen = rng.integers(0, len(self._pixels), self._recipe.batch_size)
        pixels = self._pixels[torch.from_numpy(chosen)]
        augmented = normalize_images(vary_color(pixels, rng).to(device))
        images = normalize_images(pixels.to(device))
        with torch.no_grad():
            both = detector.describe(torch.cat([images, augmented]))
        teacher, teacher_of_augmented = both.chunk(2)
        # One pass of the student for all images, and of its output only what is used.
        seen = [augmented, images]
        if self._pretraining_images is not None:
            drawn = [self._pretraining_images.draw(rng) for _ in chosen]
            seen.append(normalize_images(torch.from_numpy(np.stack(drawn)).to(device)))
        n = len(chosen)
        hidden = detector.student.hidden(torch.cat(seen))
        of_augmented, of_others = torch.split(hidden, [n, len(hidden) - n])
        for_autoencoder = detector.student.head(of_augmented, FOR_AUTOENCODER)
        for_teacher = detector.student.head(of_others, FOR_TEACHER)
        imitated, natural = torch.split(for_teacher, [n, len(for_teacher) - n])
        hard = hard_feature_loss(teacher, imitated, self._recipe.hard_share)
        autoencoder = detector.autoencoder(augmented)
        return Losses(
            hard,
            pretraining_penalty(natural) if len(natural) else hard.new_zeros(()),
            autoencoder_loss(teacher_of_augmented, autoencoder),
            student_autoencoder_loss(autoencoder, for_autoencoder),
        )


class QuickStep:
    """Algorithm 1 on less: windows for the student, kept teacher descriptors.

    The student sees one window each of several images instead of one whole image; its
    descriptors there are those of the whole image, since each sees one patch only. The
    windows are drawn from a partition of the grid: placed freely they would show the
    corners of the image hundreds of times less often than its middle. One pass gives
    both halves. The teacher's descriptors of the unchanged images are computed once;
    the autoencoder predicts them from the colour-varied image.

    Args:
        detector: The networks.
        pixels: Training images, (n, 256, 256, 3).
        kept: Teacher descriptors of them.
        pretraining_images: For the penalty, or None.
        recipe: With its quick part.
        quick: That part.
    """

    def __init__(
        self,
        detector: Detector,
        pixels: Pixels,
        kept: KeptDescriptors,
        pretraining_images: PretrainingImages | None,
        recipe: Recipe,
        quick: QuickRecipe,
    ) -> None:
        self._detector = detector
        self._pixels = torch.from_numpy(pixels)
        self._kept = kept
        self._pretraining_images = pretraining_images
        self._recipe = recipe
        self._quick = quick
        self._side = (quick.window_cells - 1) * PATCH_STRIDE + PATCH_SIZE

    def losses(self, rng: np.random.Generator) -> Losses:
        """Draw windows and compare the networks on them.

        Args:
            rng: Source of every draw.
        """
        detector, quick = self._detector, self._quick
        detector.train()
        n = self._recipe.batch_size
        chosen = rng.choice(len(self._pixels), n, replace=len(self._pixels) < n)
        n_windows = GRID_CELLS // quick.window_cells
        corners = quick.window_cells * rng.integers(0, n_windows, (n, 2))
        # One pass for both: a pass has to transform the weights, whatever its size.
        windows = torch.cat([self._windows(chosen, corners), self._natural(rng)])
        network = detector.student
        hidden = network.hidden(normalize_images(windows.to(detector.device)))
        for_teacher = network.head(hidden, FOR_TEACHER)
        for_autoencoder = network.head(hidden[: quick.n_whole_images], FOR_AUTOENCODER)
        teacher = torch.stack(
            [
                self._kept.of(int(i))[self._cells(c)]
                for i, c in zip(chosen, corners, strict=True)
            ]
        )
        hard = self._imitation_loss(teacher, for_teacher[:n])
        whole = chosen[: quick.n_whole_images]
        augmented = vary_color(self._pixels[torch.from_numpy(whole)], rng)
        autoencoder = detector.autoencoder(
            normalize_images(augmented.to(detector.device))
        )
        targets = torch.stack([self._kept.of(int(i)) for i in whole])
        blurred = torch.stack(
            [a[self._cells(c)] for a, c in zip(autoencoder, corners, strict=False)]
        )
        return Losses(
            hard,
            self._penalty(for_teacher[n:]),
            autoencoder_loss(targets, autoencoder),
            student_autoencoder_loss(blurred, for_autoencoder),
        )

    def _imitation_loss(self, teacher: Tensor, student: Tensor) -> Loss:
        hard = hard_feature_loss(teacher, student, self._recipe.hard_share)
        return hard + self._quick.mean_share * (teacher - student).square().mean()

    def _penalty(self, natural: Tensor) -> Loss:
        if not len(natural):
            return natural.new_zeros(())
        return self._quick.penalty_weight * pretraining_penalty(natural)

    def _natural(self, rng: np.random.Generator) -> Tensor:
        if self._pretraining_images is None:
            return self._pixels.new_empty((0, self._side, self._side, 3))
        drawn = []
        for _ in range(self._quick.n_penalty_images):
            top, left = rng.integers(0, INPUT_SIZE - self._side + 1, 2)
            image = self._pretraining_images.draw(rng)
            drawn.append(image[top : top + self._side, left : left + self._side])
        return torch.from_numpy(np.stack(drawn))

    def _windows(self, chosen: NDArray[np.int64], corners: NDArray[np.int64]) -> Tensor:
        return torch.stack(
            [
                self._pixels[i, top : top + self._side, left : left + self._side]
                for i, (top, left) in zip(chosen, corners * PATCH_STRIDE, strict=True)
            ]
        )

    def _cells(self, corner: NDArray[np.int64]) -> tuple[slice, slice, slice]:
        top, left = (int(c) for c in corner)
        n = self._quick.window_cells
        return slice(None), slice(top, top + n), slice(left, left + n)
