"""Preset `quick`: the best accuracy within ten minutes on two CPU cores.

Algorithm 1 on less. The student sees windows instead of whole images; its descriptors
there are those of the whole image, since each sees one patch only. The windows are
drawn from a partition of the grid: placed freely they would show the corners of the
image hundreds of times less often than its middle. One image of each step is shown with
changes of light, focus or position, which are no defects. The teacher's descriptors of
the unchanged images are computed once; the autoencoder predicts an image's descriptors
from the image with its color varied. docs/method.md has the measurements.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efficientad.calibration.normal_images import Pixels
from efficientad.images.changes import CHANGES, changed
from efficientad.images.rgb import INPUT_SIZE
from efficientad.inspection.tiling import grid_shape
from efficientad.method.detector import FOR_AUTOENCODER, FOR_TEACHER, Detector
from efficientad.method.losses import (
    autoencoder_loss,
    hard_feature_loss,
    pretraining_penalty,
    student_autoencoder_loss,
)
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.method.sizes import GRID_SIZE, PATCH_SIZE, PATCH_STRIDE
from efficientad.training.config import Preset, Recipe
from efficientad.training.descriptor_cache import DescriptorCache
from efficientad.training.paper_step import vary_color
from efficientad.training.step import Losses, Material

_TILE_WINDOWS: Final = 4
"""Windows of each image a step, with tiles: there are more places to learn."""

StudentStart = Literal["random", "teacher_hidden"]
"""All layers at random, or the hidden ones as the teacher's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickRecipe(Recipe):
    """The numbers of a quick training."""

    preset: ClassVar[Preset] = "quick"

    window_cells: int
    """Descriptors along the side of the window the student sees of an image; a divisor
    of the grid's 56, so that all windows together cover each descriptor once."""
    student_start: StudentStart
    """Weights that the student starts with."""
    n_shared_layers: int
    """First convolutions of the student that stay the teacher's, so that prediction
    computes them once. They need `student_start` as `teacher_hidden`."""
    n_changes: int
    """Changes of the first image of each step that are no defects."""
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
    has_composition: bool
    """Whether the composition of an image adds to its score (`method.composition`)."""


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
    n_shared_layers=2,
    n_changes=2,
    n_penalty_images=1,
    penalty_weight=0.3,
    n_whole_images=1,
    mean_share=1.0,
    divides_by_level=True,
    has_composition=True,
)


class QuickStep:
    """One step of a quick training."""

    def __init__(self, material: Material, recipe: QuickRecipe) -> None:
        self._material, self._recipe = material, recipe
        self._pixels = torch.from_numpy(material.pixels)
        self._cache = DescriptorCache(
            material.teacher, material.pixels, material.device
        )
        self.statistics = self._cache.statistics
        self.divides_by_level = recipe.divides_by_level
        self._side = (recipe.window_cells - 1) * PATCH_STRIDE + PATCH_SIZE

    @torch.no_grad()
    def start(self, student: PatchDescriptionNetwork) -> None:
        """Copy the teacher's hidden layers; the first ones stay as they are."""
        # Deviation: the paper's student starts at random and takes 70 000 steps.
        if self._recipe.student_start == "random":
            return
        *own, _, _ = student.convolutions.parameters()
        *given, _, _ = self._material.teacher.convolutions.parameters()
        for parameter, value in zip(own, given, strict=True):
            # Where the student is wider, the teacher's channels come first.
            parameter[: len(value)] = 0
            parameter[tuple(map(slice, value.shape))] = value
        for layer in student.convolutions[: self._recipe.n_shared_layers]:
            layer.requires_grad_(requires_grad=False)

    def losses(self, detector: Detector, rng: np.random.Generator) -> Losses:
        """Draw windows and return their losses."""
        detector.train()
        recipe, student = self._recipe, detector.student
        n, n_whole = recipe.batch_size, recipe.n_whole_images
        chosen = rng.choice(len(self._pixels), n, replace=len(self._pixels) < n)
        n_windows = GRID_SIZE // recipe.window_cells
        corners = recipe.window_cells * rng.integers(0, n_windows, (n, 2))
        shown, targets = self._shown(detector, chosen, rng)
        windows, teacher = self._windows(shown, corners), self._cut(targets, corners)
        wholes = windows[:0]
        tiled = self._material.tiled
        if tiled is not None:
            wholes = windows[:n_whole]
            each = [tiled[i] for i in chosen for _ in range(_TILE_WINDOWS)]
            n, windows = len(each), self._tile_windows(each, rng)
            with torch.no_grad():
                teacher = detector.describe(self._material.normalized(windows))
        # One pass for all: a pass has to transform the weights, whatever its size.
        seen = torch.cat([wholes, windows, self._natural(rng)])
        hidden = student.hidden(self._material.normalized(seen))
        for_autoencoder = student.head(hidden[:n_whole], FOR_AUTOENCODER)
        for_teacher = student.head(hidden[len(wholes) :], FOR_TEACHER)
        hard = hard_feature_loss(teacher, for_teacher[:n], recipe.p_hard)
        mean = (teacher - for_teacher[:n]).square().mean()
        penalty = hard.new_zeros(())
        if len(for_teacher) > n:
            penalty = recipe.penalty_weight * pretraining_penalty(for_teacher[n:])
        augmented = vary_color(shown[:n_whole], rng)
        autoencoder = detector.autoencoder(self._material.normalized(augmented))
        return Losses(
            hard + recipe.mean_share * mean,
            penalty,
            autoencoder_loss(torch.stack(targets[:n_whole]), autoencoder),
            student_autoencoder_loss(self._cut(autoencoder, corners), for_autoencoder),
        )

    def _shown(
        self, detector: Detector, chosen: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Tensor, list[Tensor]]:
        """Return images as they are shown, and the teacher's descriptors of them."""
        shown = self._pixels[torch.from_numpy(chosen)]
        first = self._changed(shown[0].numpy(), rng)
        if self._recipe.n_changes == 0:
            return shown, [self._cache[int(i)] for i in chosen]
        shown[0] = torch.from_numpy(first.copy())
        with torch.no_grad():
            described = detector.describe(self._material.normalized(shown[:1]))
        return shown, [described[0], *(self._cache[int(i)] for i in chosen[1:])]

    def _changed(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        # Deviation: the paper shows all images as they were taken.
        for kind in rng.choice(list(CHANGES), self._recipe.n_changes, replace=False):
            image = changed(image, kind, rng.uniform(-1, 1), int(rng.integers(2**31)))
        return image

    def _tile_windows(
        self, images: Sequence[Pixels], rng: np.random.Generator
    ) -> Tensor:
        """Return a window of each image at the input size, the first with changes."""
        n_cells, found = self._recipe.window_cells, []
        for number, image in enumerate(images):
            first_cells = (
                min(n_cells * int(rng.integers(-(-n // n_cells))), n - n_cells)
                for n in grid_shape((image.shape[0], image.shape[1]))
            )
            # The tile around the window: some changes move what it shows.
            window, tile = [], []
            for first, length in zip(first_cells, image.shape, strict=False):
                start = first * PATCH_STRIDE
                margin = (INPUT_SIZE - self._side) // 2
                around = min(max(start - margin, 0), length - INPUT_SIZE)
                tile.append(slice(around, around + INPUT_SIZE))
                window.append(slice(start - around, start - around + self._side))
            pixels = image[tuple(tile)]
            if number == 0:
                pixels = self._changed(pixels, rng)
            found.append(pixels[tuple(window)])
        return torch.from_numpy(np.stack(found))

    def _natural(self, rng: np.random.Generator) -> Tensor:
        side, images = self._side, self._material.pretraining_images
        if images is None:
            return self._pixels.new_empty((0, side, side, 3))
        drawn = []
        for _ in range(self._recipe.n_penalty_images):
            top, left = rng.integers(0, INPUT_SIZE - side + 1, 2)
            image = images.draw(rng)
            drawn.append(image[top : top + side, left : left + side])
        return torch.from_numpy(np.stack(drawn))

    def _windows(self, shown: Tensor, corners: NDArray[np.int64]) -> Tensor:
        side = self._side
        return torch.stack(
            [
                image[top : top + side, left : left + side]
                for image, (top, left) in zip(
                    shown, corners * PATCH_STRIDE, strict=True
                )
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
