"""SimpleNet: normal features against noisy ones (Liu et al., CVPR 2023).

Features of patches, as in PatchCore, go through one linear layer, the adaptor. A small
discriminator learns to give high values to them, and low ones to the same features with
Gaussian noise, which take the place of defects.

    loss   mean of max(0, 0.5 - D(features)) + mean of max(0, 0.5 + D(noisy features))
    map    -D, smoothed
    score  the maximum of -D over the patches

The authors keep the best of 40 states by test images. Here the last one counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad.settings import Range
from efficientad_lab.methods.method import (
    Draw,
    Inputs,
    Maps,
    Method,
    MethodSettings,
    NormalPixels,
    Output,
    Phase,
    Stride,
    enlarged,
    maximum,
    on_grid,
    smoothed,
)
from efficientad_lab.methods.patchcore import patch_vectors, require_memory
from efficientad_lab.methods.stages import Stages

_MARGIN: Final = 0.5
_LEAKY_SLOPE: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class SimpleNetSettings(MethodSettings):
    """Settings of SimpleNet; the defaults are those of its authors."""

    strides: Sequence[Stride] = (8, 16)
    dimension: Annotated[int, Range(1, 4096)] = 1536
    """Length of a patch's features."""
    n_hidden: Annotated[int, Range(1, 4096)] = 1024
    """Width of the discriminator."""
    noise: Annotated[float, Range(0, 10)] = 0.015
    """Standard deviation of the noise, for each value."""
    patch_share: Annotated[float, Range(1e-3, 1)] = 1.0
    """Share of an image's patches that a step sees; the authors take all."""
    n_epochs: Annotated[float, Range(0, 1e6)] = 160.0
    batch_size: Annotated[int, Range(1, 1024)] = 8


class SimpleNet(Method):
    """Finds features that look like noise beside normal ones."""

    Settings = SimpleNetSettings

    def __init__(self, stages: Sequence[Stages], settings: SimpleNetSettings) -> None:
        super().__init__(stages, settings)
        n, n_hidden = settings.dimension, settings.n_hidden
        self.adaptor = nn.Linear(n, n)
        self.discriminator = nn.Sequential(
            nn.Linear(n, n_hidden),
            nn.BatchNorm1d(n_hidden),
            nn.LeakyReLU(_LEAKY_SLOPE),
            nn.Linear(n_hidden, 1, bias=False),
        )
        for module in (self.adaptor, *self.discriminator):
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)

    def title(self) -> str:
        """Return the name in tables, with what was replaced."""
        own = self.settings
        part = "" if own.patch_share == 1 else f", {own.patch_share:g} of the patches"
        return f"SimpleNet, {self.stages.architecture}, {own.input_size} px{part}"

    def phases(self, pixels: NormalPixels) -> Iterator[Phase]:
        """Yield the training of adaptor and discriminator.

        Raises:
            TrainingError: If the features do not fit into the memory.
        """
        side = self.settings.input_size // self.settings.strides[0]
        require_memory(len(pixels) * side**2, self.settings.dimension)
        yield Phase(
            name="discriminator",
            optimizer=torch.optim.Adam(
                [
                    {
                        "params": self.discriminator.parameters(),
                        "lr": 2e-4,
                        "weight_decay": 1e-5,
                    },
                    {
                        "params": self.adaptor.parameters(),
                        "lr": 1e-4,
                        "weight_decay": 1e-2,
                        "decoupled_weight_decay": True,  # which makes it AdamW
                    },
                ]
            ),
            inputs=self.cached(pixels, self._features),
            loss=self._loss,
            n_epochs=self.settings.n_epochs,
            batch_size=self.settings.batch_size,
        )

    def output(self, images: Inputs) -> Output:
        """Return the smoothed map, and the maximum before smoothing."""
        raw = self._raw_maps(self._features(images))
        maps = on_grid(smoothed(enlarged(raw, self.settings.input_size)))
        return Output({"anomaly": maps}, {"score": maximum(raw)})

    def _features(self, images: Inputs) -> Float[Tensor, "batch n_patches length"]:
        return patch_vectors(self.stages(images), self.settings.dimension)

    def _raw_maps(self, features: Float[Tensor, "batch n_patches length"]) -> Maps:
        n, n_patches, _ = features.shape
        side = round(n_patches**0.5)
        values: Tensor = self.discriminator(self.adaptor(features.flatten(0, 1)))
        return -values.view(n, side, side)

    def _loss(
        self, batch: Float[Tensor, "batch n_patches length"], draw: Draw
    ) -> Tensor:
        patches = batch.flatten(0, 1)
        n = max(2, round(len(patches) * self.settings.patch_share))
        if n < len(patches):
            order = torch.randperm(len(patches), generator=draw.generator)
            patches = patches[order[:n]]
        adapted = self.adaptor(patches.float())
        noise = torch.randn(adapted.shape, generator=draw.generator)
        fakes = adapted + self.settings.noise * noise
        values = self.discriminator(torch.cat([adapted, fakes]))[:, 0]
        real, fake = values.chunk(2)
        of_real = functional.relu(_MARGIN - real).mean()
        return of_real + functional.relu(_MARGIN + fake).mean()
