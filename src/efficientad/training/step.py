"""The protocol between the training loop and a preset."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from efficientad.calibration.normal_images import Pixels
from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.inputs import Images, normalize_images
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.natural_images.pictures import PretrainingImages

Loss = Float[Tensor, ""]


class Material(NamedTuple):
    """Teacher and images of a training."""

    teacher: PatchDescriptionNetwork
    """Frozen network on the device of the training."""
    pixels: Pixels
    """Training images, (n, 256, 256, 3)."""
    pretraining_images: PretrainingImages | None
    """Source of natural images. None: there is no pretraining penalty."""
    device: torch.device
    """Device of the training."""
    tiled: Pixels | None = None
    """Training images at the input size, (n, height, width, 3), that tiles are drawn
    from. None: there are no tiles."""

    def normalized(self, pixels: Tensor) -> Images:
        """Return pixels as the networks take them."""
        return normalize_images(pixels.to(self.device))


def random_tile(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a tile of an image at the input size, (256, 256, 3)."""
    top, left = (int(rng.integers(n - INPUT_SIZE + 1)) for n in image.shape[:2])
    return image[top : top + INPUT_SIZE, left : left + INPUT_SIZE]


class Losses(NamedTuple):
    """The four losses of a step; their sum is minimized."""

    hard: Loss
    penalty: Loss
    autoencoder: Loss
    student_autoencoder: Loss

    def total(self) -> Loss:
        """Return the sum with equal weights."""
        return self.hard + self.penalty + self.autoencoder + self.student_autoencoder


class Step(Protocol):
    """One way to train: `PaperStep` or `QuickStep`."""

    statistics: ChannelStatistics
    """Mean and deviation of the teacher's channels on the training images."""

    divides_by_level: bool
    """Whether calibration divides each raw map by the image's own level."""

    def start(self, student: PatchDescriptionNetwork) -> None:
        """Prepare the randomly initialized student for its first step, in place."""
        ...

    def losses(self, detector: Detector, rng: np.random.Generator) -> Losses:
        """Return the losses of one step; every draw comes from `rng`."""
        ...
