"""Algorithm 1 of the paper's supplement: as it is printed, and the fast form of it.

Both forms compute the same losses and gradients but for rounding; a test holds them
together. Training takes the fast one: one pass of the teacher and one of the student
for all images, and of the student's output only the channels that a loss uses.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from efficientad.method.detector import FOR_AUTOENCODER, FOR_TEACHER, Detector
from efficientad.method.inputs import Images
from efficientad.method.losses import (
    autoencoder_loss,
    hard_feature_loss,
    pretraining_penalty,
    student_autoencoder_loss,
)
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.training.channel_statistics import channel_statistics
from efficientad.training.config import Recipe
from efficientad.training.step import Losses, Material, random_tile

# Algorithm 1: brightness, contrast or saturation by a factor within these limits.
_COLOR_FACTORS = (0.8, 1.2)
# Weights of red, green and blue in gray, ITU-R BT.601, as in Pillow and torchvision.
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)


class Drawn(NamedTuple):
    """The images of one step, normalized."""

    images: Images
    """Training images, as they are, or a tile of each."""
    augmented: Images
    """The same whole images, each with its color varied."""
    natural: Images | None
    """Pretraining images. None: there is no pretraining penalty."""


def algorithm_1(detector: Detector, drawn: Drawn, p_hard: float) -> Losses:
    """Return the losses of one step, line by line as Algorithm 1 has them."""
    teacher = detector.describe(drawn.images)
    student = detector.student(drawn.images)[:, FOR_TEACHER]
    hard = hard_feature_loss(teacher, student, p_hard)
    penalty = hard.new_zeros(())
    if drawn.natural is not None:
        student = detector.student(drawn.natural)[:, FOR_TEACHER]
        penalty = pretraining_penalty(student)
    autoencoder = detector.autoencoder(drawn.augmented)
    teacher = detector.describe(drawn.augmented)
    student = detector.student(drawn.augmented)[:, FOR_AUTOENCODER]
    return Losses(
        hard,
        penalty,
        autoencoder_loss(teacher, autoencoder),
        student_autoencoder_loss(autoencoder, student),
    )


def fast_losses(detector: Detector, drawn: Drawn, p_hard: float) -> Losses:
    """Return what `algorithm_1` returns, in one pass of each network."""
    images, augmented, natural = drawn
    n = len(images)
    with torch.no_grad():
        teacher, teacher_of_augmented = detector.describe(
            torch.cat([images, augmented])
        ).chunk(2)
    seen = [augmented, images, *([] if natural is None else [natural])]
    hidden = detector.student.hidden(torch.cat(seen))
    of_augmented, of_others = torch.split(hidden, [n, len(hidden) - n])
    for_autoencoder = detector.student.head(of_augmented, FOR_AUTOENCODER)
    for_teacher = detector.student.head(of_others, FOR_TEACHER)
    hard = hard_feature_loss(teacher, for_teacher[:n], p_hard)
    autoencoder = detector.autoencoder(augmented)
    return Losses(
        hard,
        hard.new_zeros(()) if natural is None else pretraining_penalty(for_teacher[n:]),
        autoencoder_loss(teacher_of_augmented, autoencoder),
        student_autoencoder_loss(autoencoder, for_autoencoder),
    )


class PaperStep:
    """One step of Algorithm 1: draws images and compares the networks on them."""

    def __init__(self, material: Material, recipe: Recipe) -> None:
        self._material, self._recipe = material, recipe
        self._pixels = torch.from_numpy(material.pixels)
        self.statistics = channel_statistics(
            material.teacher, material.pixels, material.device
        )

    def start(self, student: PatchDescriptionNetwork) -> None:
        """Leave the student as it was initialized."""

    def losses(self, detector: Detector, rng: np.random.Generator) -> Losses:
        """Draw images and return their losses."""
        detector.train()
        return fast_losses(detector, self.draw(rng), self._recipe.p_hard)

    def draw(self, rng: np.random.Generator) -> Drawn:
        """Draw training images, a variation of each, and as many pretraining images."""
        material = self._material
        chosen = rng.integers(0, len(self._pixels), self._recipe.batch_size)
        pixels = self._pixels[torch.from_numpy(chosen)]
        augmented = vary_color(pixels, rng)
        if material.tiled is not None:
            tiles = [random_tile(material.tiled[index], rng) for index in chosen]
            pixels = torch.from_numpy(np.stack(tiles))
        natural = None
        if material.pretraining_images is not None:
            drawn = np.stack([material.pretraining_images.draw(rng) for _ in chosen])
            natural = material.normalized(torch.from_numpy(drawn))
        return Drawn(
            material.normalized(pixels), material.normalized(augmented), natural
        )


def vary_color(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return images with brightness, contrast or saturation of each one changed.

    They are of (batch, height, width, 3), 0 to 255, uint8. One of the three, and its
    factor, is drawn for each image.
    """
    varied = []
    for image in images.float():
        kind, factor = int(rng.integers(3)), float(rng.uniform(*_COLOR_FACTORS))
        gray = (image * image.new_tensor(_GRAY_WEIGHTS)).sum(-1, keepdim=True)
        anchor = (torch.zeros(()), gray.mean(), gray)[kind]
        blended = torch.lerp(anchor.expand_as(image).to(image), image, factor)
        varied.append(blended.clamp(0, 255).round())
    return torch.stack(varied).byte()
