"""FastFlow: the density of features by normalizing flows (Yu et al., 2021).

Three stages of a frozen network are normalized, and each goes through its own flow, an
invertible network that is trained to turn normal features into independent Gaussian
noise. A step of a flow changes one half of the channels by an affine function that the
other half decides:

    y2 = x2 * exp(2 tanh(0.1 a)) + 0.1 b      with (a, b) from convolutions of x1

then scales and shifts each channel, and permutes the channels in a fixed order.

    loss   sum over stages of the mean over images of |z|^2 / 2 - log |det J|
    map    1 - exp(-mean over channels of z^2 / 2), the mean over stages
    score  the maximum of the map
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Annotated, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

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
    enlarged,
    maximum,
    on_grid,
)
from efficientad_lab.methods.stages import Grid, Stages

LogDeterminant = Float[Tensor, " batch"]

_SLOPE: Final = 0.1
_CLAMP: Final = 2.0
_SOFTPLUS_BETA: Final = 0.5
_SCALE: Final = 0.1
# Softplus of it, times 0.1, is one: each channel begins as it is.
_SCALE_AT_ONE: Final = math.log(math.expm1(_SOFTPLUS_BETA / _SCALE)) / _SOFTPLUS_BETA


@dataclass(frozen=True, kw_only=True)
class FastFlowSettings(MethodSettings):
    """Settings of FastFlow; the defaults are those for large backbones."""

    strides: Sequence[Stride] = (4, 8, 16)
    n_steps: Annotated[int, Range(1, 64)] = 8
    """Steps of each flow."""
    kernels: Sequence[Annotated[int, Range(1, 7, 1)]] = (3, 1)
    """Kernels of the convolutions, step by step, from the start again at the end. The
    authors use (3,) with ResNet-18."""
    ratio: Annotated[float, Range(0.01, 4)] = 1.0
    """Hidden channels as a multiple of a half of the channels."""
    n_epochs: Annotated[float, Range(0, 1e6)] = 500.0
    batch_size: Annotated[int, Range(1, 1024)] = 32


class FlowStep(nn.Module):
    """One invertible step.

    Args:
        n_channels: Channels of the features, even.
        kernel: Height and width of both convolutions.
        n_hidden: Channels between them.
        generator: Generator of the permutation.
    """

    permutation: Tensor

    def __init__(
        self, n_channels: int, kernel: int, n_hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        n_first = n_channels // 2
        self.convolutions = nn.Sequential(
            nn.Conv2d(n_first, n_hidden, kernel, padding="same"),
            nn.ReLU(),
            nn.Conv2d(n_hidden, 2 * (n_channels - n_first), kernel, padding="same"),
        )
        self.n_first = n_first
        self.scale = nn.Parameter(torch.full((n_channels,), _SCALE_AT_ONE))
        self.offset = nn.Parameter(torch.zeros(n_channels))
        order = torch.randperm(n_channels, generator=generator)
        self.register_buffer("permutation", order)

    def forward(self, features: Grid) -> tuple[Grid, LogDeterminant]:
        """Return the changed features and the log-determinant of the Jacobian."""
        first, second = features[:, : self.n_first], features[:, self.n_first :]
        slopes, shifts = (_SLOPE * self.convolutions(first)).chunk(2, dim=1)
        exponents = _CLAMP * torch.tanh(slopes)
        changed = torch.cat([first, second * torch.exp(exponents) + shifts], dim=1)
        scale = _SCALE * functional.softplus(self.scale, beta=_SOFTPLUS_BETA)
        shaped = (1, -1, 1, 1)
        scaled = changed * scale.view(shaped) + self.offset.view(shaped)
        n_cells = features.shape[2] * features.shape[3]
        determinant = exponents.sum((1, 2, 3)) + n_cells * scale.log().sum()
        return scaled[:, self.permutation], determinant


class Flow(nn.Module):
    """The steps of one stage.

    Args:
        n_channels: Channels of the stage, even.
        settings: Number, kernels and hidden channels of the steps.
        generator: Generator of the permutations.
    """

    def __init__(
        self, n_channels: int, settings: FastFlowSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        n_hidden = max(1, int(settings.ratio * (n_channels // 2)))
        kernels = islice(cycle(settings.kernels), settings.n_steps)
        self.steps = nn.ModuleList(
            FlowStep(n_channels, kernel, n_hidden, generator) for kernel in kernels
        )

    def forward(self, features: Grid) -> tuple[Grid, LogDeterminant]:
        """Return the noise and the log-determinant of the Jacobian."""
        total = features.new_zeros(len(features))
        for step in self.steps:
            features, determinant = step(features)
            total = total + determinant
        return features, total


class FastFlow(Method):
    """Finds features that normal images do not have, or seldom."""

    Settings = FastFlowSettings

    def __init__(self, stages: Sequence[Stages], settings: FastFlowSettings) -> None:
        super().__init__(stages, settings)
        channels = [self.stages.channels[stride] for stride in settings.strides]
        sides = [settings.input_size // stride for stride in settings.strides]
        self.shapes = [(n, side, side) for n, side in zip(channels, sides, strict=True)]
        self.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in self.shapes)
        generator = torch.Generator().manual_seed(settings.seed)
        self.flows = nn.ModuleList(Flow(n, settings, generator) for n in channels)

    def title(self) -> str:
        """Return the name in tables, with what was replaced."""
        kernels = "/".join(map(str, self.settings.kernels))
        return f"FastFlow, {self.stages.architecture}, kernels {kernels}"

    def phases(self, pixels: NormalPixels) -> Iterator[Phase]:
        """Yield the training of all flows together."""

        def features(images: Inputs) -> Tensor:
            return torch.cat([grid.flatten(1) for grid in self.stages(images)], dim=1)

        trained = [*self.norms.parameters(), *self.flows.parameters()]
        yield Phase(
            name="flows",
            optimizer=torch.optim.Adam(trained, lr=1e-3, weight_decay=1e-5),
            inputs=self.cached(pixels, features),
            loss=self._loss,
            n_epochs=self.settings.n_epochs,
            batch_size=self.settings.batch_size,
        )

    def output(self, images: Inputs) -> Output:
        """Return the mean map of the stages, and its maximum."""
        size = self.settings.input_size
        noise = [z for z, _ in self._noise(self.stages(images))]
        maps = [1 - torch.exp(-z.square().mean(1) / 2) for z in noise]
        mean = torch.stack([enlarged(one, size) for one in maps]).mean(0)
        return Output({"anomaly": on_grid(mean)}, {"score": maximum(mean)})

    def _noise(self, grids: Sequence[Grid]) -> list[tuple[Grid, LogDeterminant]]:
        """Return noise and log-determinant of each stage."""
        parts = zip(self.norms, self.flows, grids, strict=True)
        return [flow(norm(grid)) for norm, flow, grid in parts]

    def _loss(self, batch: Float[Tensor, "batch n"], draw: Draw) -> Tensor:  # noqa: ARG002 - nothing is drawn
        sizes = [math.prod(shape) for shape in self.shapes]
        flat = torch.split(batch.float(), sizes, dim=1)
        grids = [
            one.view(-1, *shape) for one, shape in zip(flat, self.shapes, strict=True)
        ]
        losses = [
            (z.square().sum((1, 2, 3)) / 2 - determinant).mean()
            for z, determinant in self._noise(grids)
        ]
        return torch.stack(losses).sum()
