"""Preset `quick`: the best accuracy within ten minutes on two CPU cores.

Algorithm 1 on less. The student sees windows instead of whole images; its descriptors
there are those of the whole image, since each sees one patch only. The windows are
drawn from a partition of the grid: placed freely they would show the corners of the
image hundreds of times less often than its middle. The teacher's descriptors of the
unchanged images are computed once; the autoencoder predicts them from the image with
its color varied. docs/method.md has the measurements.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.detector import (
    FOR_AUTOENCODER,
    FOR_TEACHER,
    ChannelStatistics,
    Detector,
)
from efficientad.method.inputs import Images, normalize_images
from efficientad.method.losses import (
    autoencoder_loss,
    hard_feature_loss,
    pretraining_penalty,
    student_autoencoder_loss,
)
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.method.sizes import GRID_SIZE, PATCH_SIZE, PATCH_STRIDE
from efficientad.natural_images.pictures import PretrainingImages
from efficientad.training.config import Preset, Recipe
from efficientad.training.descriptor_cache import DescriptorCache
from efficientad.training.normal_images import Pixels
from efficientad.training.paper_step import vary_color
from efficientad.training.step import Loss, Losses

StudentStart = Literal["random", "teacher_hidden", "teacher"]
"""All layers random; the teacher's hidden layers; also its last one for the first
half of the student."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickRecipe(Recipe):
    """The numbers of a quick training."""

    preset: ClassVar[Preset] = "quick"

    window_cells: int
    """Descriptors along the side of the window the student sees of an image; a divisor
    of the grid's 56, so that all windows together cover each descriptor once."""
    student_start: StudentStart
    """Layers of the student that start as the teacher's."""
    n_penalty_images: int
    """Windows of natural images a step."""
    penalty_weight: float
    """Weight of the pretraining penalty; the paper's is 1."""
    n_whole_images: int
    """Whole images a step for the autoencoder."""
    mean_share: float
    """Weight of the mean over all squared distances beside the hard feature loss."""
    divides_by_level: bool
    """Whether a raw map is divided by the image's own level before normalization."""


QUICK: Final = QuickRecipe(
    steps=600,
    batch_size=2,
    learning_rate=0.02,
    rate_schedule="cosine",
    optimizer="muon",
    weight_decay=1e-5,
    p_hard=0.99,
    local_channels=128,
    global_channels=64,
    window_cells=28,
    student_start="teacher_hidden",
    n_penalty_images=1,
    penalty_weight=0.3,
    n_whole_images=1,
    mean_share=1.0,
    divides_by_level=True,
)


class QuickStep:
    """One step of a quick training.

    Args:
        teacher: Frozen network, on the device of the training.
        pixels: Training images, (n, 256, 256, 3).
        pretraining_images: Source of natural images. None: no pretraining penalty.
        recipe: Numbers of the training.
        device: Device of the training.
    """

    def __init__(
        self,
        teacher: PatchDescriptionNetwork,
        pixels: Pixels,
        pretraining_images: PretrainingImages | None,
        recipe: QuickRecipe,
        device: torch.device,
    ) -> None:
        self._cache = DescriptorCache(teacher, pixels, device)
        self.statistics = self._cache.statistics
        self.divides_by_level = recipe.divides_by_level
        self._teacher = teacher
        self._pixels = torch.from_numpy(pixels)
        self._pretraining_images = pretraining_images
        self._recipe = recipe
        self._device = device
        self._side = (recipe.window_cells - 1) * PATCH_STRIDE + PATCH_SIZE

    def start(self, student: PatchDescriptionNetwork) -> None:
        """Copy the teacher's layers that the student need not learn again."""
        # Deviation: the paper's student starts at random and takes 70 000 steps.
        start = self._recipe.student_start
        start_student(student, self._teacher, self.statistics, start)

    def losses(self, detector: Detector, rng: np.random.Generator) -> Losses:
        """Draw windows and return their losses."""
        detector.train()
        recipe, student = self._recipe, detector.student
        n, n_whole = recipe.batch_size, recipe.n_whole_images
        chosen = rng.choice(len(self._pixels), n, replace=len(self._pixels) < n)
        n_windows = GRID_SIZE // recipe.window_cells
        corners = recipe.window_cells * rng.integers(0, n_windows, (n, 2))
        # One pass for both: a pass has to transform the weights, whatever its size.
        windows = torch.cat([self._windows(chosen, corners), self._natural(rng)])
        hidden = student.hidden(self._normalized(windows))
        for_teacher = student.head(hidden, FOR_TEACHER)
        for_autoencoder = student.head(hidden[:n_whole], FOR_AUTOENCODER)
        targets = [self._cache[int(i)] for i in chosen]
        hard = self._imitation_loss(self._cut(targets, corners), for_teacher[:n])
        whole = torch.from_numpy(chosen[:n_whole])
        augmented = vary_color(self._pixels[whole], rng)
        autoencoder = detector.autoencoder(self._normalized(augmented))
        return Losses(
            hard,
            self._penalty(for_teacher[n:]),
            autoencoder_loss(torch.stack(targets[:n_whole]), autoencoder),
            student_autoencoder_loss(self._cut(autoencoder, corners), for_autoencoder),
        )

    def _imitation_loss(self, teacher: Tensor, student: Tensor) -> Loss:
        hard = hard_feature_loss(teacher, student, self._recipe.p_hard)
        return hard + self._recipe.mean_share * (teacher - student).square().mean()

    def _penalty(self, natural: Tensor) -> Loss:
        if not len(natural):
            return natural.new_zeros(())
        return self._recipe.penalty_weight * pretraining_penalty(natural)

    def _natural(self, rng: np.random.Generator) -> Tensor:
        side = self._side
        if self._pretraining_images is None:
            return self._pixels.new_empty((0, side, side, 3))
        drawn = []
        for _ in range(self._recipe.n_penalty_images):
            top, left = rng.integers(0, INPUT_SIZE - side + 1, 2)
            image = self._pretraining_images.draw(rng)
            drawn.append(image[top : top + side, left : left + side])
        return torch.from_numpy(np.stack(drawn))

    def _windows(self, chosen: NDArray[np.int64], corners: NDArray[np.int64]) -> Tensor:
        side = self._side
        return torch.stack(
            [
                self._pixels[i, top : top + side, left : left + side]
                for i, (top, left) in zip(chosen, corners * PATCH_STRIDE, strict=True)
            ]
        )

    def _cut(self, grids: Iterable[Tensor], corners: NDArray[np.int64]) -> Tensor:
        """Return the window of each grid; there may be fewer grids than corners."""
        n = self._recipe.window_cells
        return torch.stack(
            [
                grid[:, top : top + n, left : left + n]
                for grid, (top, left) in zip(grids, corners.tolist(), strict=False)
            ]
        )

    def _normalized(self, pixels: Tensor) -> Images:
        return normalize_images(pixels.to(self._device))


@torch.no_grad()
def start_student(
    student: PatchDescriptionNetwork,
    teacher: PatchDescriptionNetwork,
    statistics: ChannelStatistics,
    start: StudentStart,
) -> None:
    """Copy layers of the teacher into an untrained student.

    Args:
        student: Network that is changed in place.
        teacher: Network of the same size.
        statistics: Mean and deviation of the teacher's channels, which the student's
            last layer takes up.
        start: Layers to copy.
    """
    if start == "random":
        return
    for index, (own, given) in enumerate(
        zip(student.convolutions, teacher.convolutions, strict=True)
    ):
        assert isinstance(own, nn.Conv2d)
        assert isinstance(given, nn.Conv2d)
        assert own.bias is not None
        assert given.bias is not None
        weight, bias = given.weight, given.bias
        if index == len(student.convolutions) - 1:
            if start == "teacher_hidden":
                continue
            weight = weight / statistics.std.view(-1, 1, 1, 1)
            bias = (bias - statistics.mean) / statistics.std
        # Where the student is wider, the teacher's channels come first.
        n_out, n_in = weight.shape[:2]
        own.weight[:n_out] = 0
        own.weight[:n_out, :n_in] = weight
        own.bias[:n_out] = bias
