"""GCAD, a re-creation: local and global consistency (Bergmann et al., IJCV 2022).

Two branches, each with an encoder that is matched by a regression network:

    local    E, a frozen teacher of patches, and the U-Net R_E
    global   G, an autoencoder with a bottleneck of 32 numbers, and the U-Net R_G

G learns, through a small network U, what E says about the whole image. Its shortcuts
around the bottleneck fade out in the first fifth of the training, the finest first;
after that, G knows an arrangement of parts by 32 numbers alone. R_G joins at a tenth.

    loss   |E - U(G)|^2 + |G - R_G|^2 + |E - R_E|^2, each the mean over channels
    maps   |E - R_E| and |G - R_G|, the norms over channels
    score  the maximum of the sum of (map - mean) / deviation, over held-out images

There is no public program. The paper names neither the batch nor the widths of G. They
are our own choice here, as are: the teacher, a patch description network with a value
every 4 pixels; U-Nets that work on that grid behind two strided convolutions; no
changes of the images; and R_G, which learns from G and does not teach it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad.errors import ConfigError
from efficientad.images.rgb import INPUT_SIZE
from efficientad.settings import Range
from efficientad_lab.methods.method import (
    Draw,
    Inputs,
    Method,
    MethodSettings,
    NormalPixels,
    Output,
    Phase,
    Stride,
    on_grid,
)
from efficientad_lab.methods.stages import Grid, Stages
from efficientad_lab.methods.unet import UNet
from efficientad_lab.normalization import fit_mean_and_deviation

N_BOTTLENECK: Final = 32
N_GLOBAL: Final = 10
_STRIDE: Final = 4
# Channels of G with 128, 64 (the grid of the teacher), 32, 16, 8, 4 and 2 rows.
_WIDTHS: Final = (16, 32, 64, 64, 64, 64, 64)
_N_SKIPS: Final = 5
_LEAKY_SLOPE: Final = 0.2
_FADED: Final = 0.2  # 100 of 500 epochs
_JOINS: Final = 0.1  # 50 of them


@dataclass(frozen=True, kw_only=True)
class GlobalSettings(MethodSettings):
    """Settings of GCAD; the number of epochs is that of its authors."""

    strides: Sequence[Stride] = (4,)
    base: Annotated[int, Range(1, 256)] = 32
    """Channels of the U-Nets at their full size; the authors' have 64."""
    depth: Annotated[int, Range(2, 6)] = 4
    """Sizes in the U-Nets; the authors' have 5."""
    n_epochs: Annotated[float, Range(0, 1e6)] = 500.0
    batch_size: Annotated[int, Range(1, 1024)] = 4


class GlobalEncoder(nn.Module):
    """The autoencoder G; its input has 256 rows, its output 64 and 10 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 4, stride=2, padding=1)
            for n_in, n_out in zip((3, *_WIDTHS), _WIDTHS, strict=False)
        )
        self.to_bottleneck = nn.Conv2d(_WIDTHS[-1], N_BOTTLENECK, 2)
        self.from_bottleneck = nn.ConvTranspose2d(N_BOTTLENECK, _WIDTHS[-1], 2)
        back = _WIDTHS[1:][::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1)
            for n_in, n_out in pairwise(back)
        )
        # Of the results of `up`, the coarsest first: 4 to 64 rows.
        self.skips = nn.ModuleList(nn.Conv2d(n, n, 1) for n in back[1:])
        self.last = nn.Conv2d(back[-1], N_GLOBAL, 1)

    def forward(
        self, images: Float[Tensor, "batch 3 256 256"], weights: Tensor
    ) -> Grid:
        """Return 10 channels on a grid of 64 x 64.

        Args:
            images: ImageNet-normalized.
            weights: Weight of each shortcut in [0, 1], the finest first.
        """
        found = []
        for convolution in self.down:
            images = functional.leaky_relu(convolution(images), _LEAKY_SLOPE)
            found.append(images)
        bottleneck = self.to_bottleneck(images)
        images = functional.leaky_relu(self.from_bottleneck(bottleneck), _LEAKY_SLOPE)
        around = found[1:-1][::-1]
        parts = zip(self.up, self.skips, around, weights.flip(0), strict=True)
        for convolution, skip, other, weight in parts:
            images = functional.leaky_relu(convolution(images), _LEAKY_SLOPE)
            if weight > 0:
                images = images + weight * skip(other)
        output: Tensor = self.last(images)
        return output


class _Regression(nn.Module):
    """A U-Net on the grid of the teacher."""

    def __init__(self, n_out: int, settings: GlobalSettings) -> None:
        super().__init__()
        base = settings.base
        self.stem = nn.Sequential(
            nn.Conv2d(3, base, 4, stride=2, padding=1),
            nn.LeakyReLU(_LEAKY_SLOPE),
            nn.Conv2d(base, base, 4, stride=2, padding=1),
            nn.LeakyReLU(_LEAKY_SLOPE),
        )
        widths = [base * 2**level for level in range(settings.depth)]
        self.network = UNet(base, n_out, widths)

    def forward(self, images: Inputs) -> Grid:
        """Return a grid with a quarter of the rows."""
        predicted: Tensor = self.network(self.stem(images))
        return predicted


class GlobalContext(Method):
    """Finds patches, and arrangements, that regression networks cannot predict."""

    Settings = GlobalSettings
    fit_scale = staticmethod(fit_mean_and_deviation)
    mean: Tensor
    deviation: Tensor

    def __init__(self, stages: Sequence[Stages], settings: GlobalSettings) -> None:
        super().__init__(stages, settings)
        if settings.input_size != INPUT_SIZE:
            raise ConfigError(
                f"gcad needs an input of {INPUT_SIZE} pixels, got "
                f"{settings.input_size}; leave input_size out"
            )
        n = self.stages.channels[_STRIDE]
        self.encoder = GlobalEncoder()
        self.upsampled = nn.Sequential(
            nn.Conv2d(N_GLOBAL, n // 2, 1),
            nn.LeakyReLU(_LEAKY_SLOPE),
            nn.Conv2d(n // 2, n // 2, 1),
            nn.LeakyReLU(_LEAKY_SLOPE),
            nn.Conv2d(n // 2, n, 1),
        )
        self.local_regression = _Regression(n, settings)
        self.global_regression = _Regression(N_GLOBAL, settings)
        self.register_buffer("mean", torch.zeros(1, n, 1, 1))
        self.register_buffer("deviation", torch.ones(1, n, 1, 1))

    def title(self) -> str:
        """Return the name in tables, with what was replaced."""
        own = self.settings
        name = self.stages.architecture
        return f"GCAD re-creation, {name} as teacher, U-Nets {own.base} x {own.depth}"

    def prepare(self, pixels: NormalPixels) -> None:
        """Measure mean and deviation of the teacher's channels."""
        mean, deviation = self.channel_statistics(pixels, self._described)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def phases(self, pixels: NormalPixels) -> Iterator[Phase]:
        """Yield the training of all networks together."""
        trained = [p for p in self.parameters() if p.requires_grad]
        yield Phase(
            name="all networks",
            optimizer=torch.optim.Adam(trained, lr=1e-4, weight_decay=1e-5),
            inputs=pixels,
            loss=self._loss,
            n_epochs=self.settings.n_epochs,
            batch_size=self.settings.batch_size,
        )

    def output(self, images: Inputs) -> Output:
        """Return the local and the global map; the score is the maximum."""
        local = self._target(images) - self.local_regression(images)
        whole = self.encoder(images, torch.zeros(_N_SKIPS))
        regression = whole - self.global_regression(images)
        return Output(
            {
                "local": on_grid(torch.linalg.vector_norm(local, dim=1)),
                "global": on_grid(torch.linalg.vector_norm(regression, dim=1)),
            },
            {},
        )

    def _described(self, images: Inputs) -> Grid:
        (found,) = self.stages(images)
        descriptors: Tensor = found
        return descriptors

    def _target(self, images: Inputs) -> Grid:
        with torch.no_grad():
            return (self._described(images) - self.mean) / self.deviation

    def _loss(self, batch: NormalPixels, draw: Draw) -> Tensor:
        images = self.inputs(batch)
        target = self._target(images)
        found = self.encoder(images, skip_weights(draw.progress))
        losses = [
            functional.mse_loss(self.upsampled(found), target),
            functional.mse_loss(self.local_regression(images), target),
        ]
        if draw.progress >= _JOINS:
            predicted = self.global_regression(images)
            losses.append(functional.mse_loss(predicted, found.detach()))
        return torch.stack(losses).sum()


def skip_weights(progress: float) -> Float[Tensor, " 5"]:
    """Return the weights of the shortcuts, the finest first.

    One after the other goes from 1 to 0, in the first fifth of the training.

    Args:
        progress: Share of the training that is done, in [0, 1].
    """
    done = progress / _FADED * _N_SKIPS
    return (torch.arange(1.0, _N_SKIPS + 1) - done).clamp(0, 1)
