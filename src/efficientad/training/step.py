"""What the training loop asks of a preset."""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.networks import PatchDescriptionNetwork

Loss = Float[Tensor, ""]


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
