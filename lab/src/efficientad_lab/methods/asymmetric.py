"""AST: a student that cannot become its teacher (Rudolph et al., WACV 2023).

The teacher is a normalizing flow over one stage of a frozen network, trained to turn
normal features into Gaussian noise z. The student is an ordinary convolutional network
with residual blocks that learns to predict z from the same features. Both get the
position of a feature as sines and cosines. They are so different that on what they have
not learned they go astray in different ways.

    block    y1 = x1 exp(s2) + t2  with (s2, t2) from x2 and the position, then
             y2 = x2 exp(s1) + t1  with (s1, t1) from y1 and the position
             s  = 3 * 0.636 * atan(s / 3)
    teacher  loss: mean over positions of |z|^2 / 2 - log |det J|
    student  loss: mean of (prediction - z)^2
    map      mean over channels of (prediction - z)^2
    score    the mean of the map
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efficientad.settings import Range
from efficientad_lab.methods.method import (
    Draw,
    Inputs,
    InputSize,
    Maps,
    Method,
    MethodSettings,
    NormalPixels,
    Output,
    Phase,
    Stride,
    on_grid,
)
from efficientad_lab.methods.stages import Grid, Stages

LogDeterminants = Float[Tensor, "batch _ _"]
"""At each position, (batch, rows, columns)."""

N_POSITION: Final = 32
_POSITION_BASE: Final = 1e4
_CLAMP: Final = 3.0
_CLAMP_FACTOR: Final = 0.636  # 2 / pi: the exponent stays within the clamp
_LEAKY_SLOPE: Final = 0.2
_KERNELS: Final = (3, 3, 3, 5)
_N_RESIDUAL: Final = 4
# Half of the steps are the teacher's; a step of the student takes longer.
_TEACHER_SHARE: Final = 0.4


@dataclass(frozen=True, kw_only=True)
class AsymmetricSettings(MethodSettings):
    """Settings of AST; widths and epochs are those of its authors."""

    strides: Sequence[Stride] = (16,)
    """The stage. The authors use stride 32 of EfficientNet-B5 at 768 pixels."""
    input_size: InputSize = 384
    teacher_width: Annotated[int, Range(1, 4096)] = 1024
    """Hidden channels of the teacher's convolutions."""
    student_width: Annotated[int, Range(1, 4096)] = 1024
    """Channels of the student."""
    n_epochs: Annotated[float, Range(0, 1e6)] = 240.0
    """Epochs of the teacher, and of the student."""
    batch_size: Annotated[int, Range(1, 1024)] = 8


class _Subnetwork(nn.Module):
    """Two convolutions whose result begins at zero."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int, kernel: int) -> None:
        super().__init__()
        pad = kernel // 2
        self.layers = nn.Sequential(
            nn.Conv2d(n_in, n_hidden, kernel, padding=pad, padding_mode="replicate"),
            nn.ReLU(),
            nn.Conv2d(n_hidden, n_out, kernel, padding=pad, padding_mode="replicate"),
        )
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, features: Grid) -> tuple[Grid, Grid]:
        """Return clamped exponents and shifts."""
        exponents, shifts = (self.layers(features) * self.scale).chunk(2, dim=1)
        clamped = _CLAMP * _CLAMP_FACTOR * torch.atan(exponents / _CLAMP)
        return clamped, shifts


class TeacherBlock(nn.Module):
    """A permutation and two couplings.

    Args:
        n_channels: Channels of the features, even.
        n_hidden: Hidden channels of both subnetworks.
        kernel: Height and width of their convolutions.
        generator: Generator of the permutation.
    """

    permutation: Tensor

    def __init__(
        self, n_channels: int, n_hidden: int, kernel: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        order = torch.randperm(n_channels, generator=generator)
        self.register_buffer("permutation", order)
        self.n_first = n_channels // 2
        n_second = n_channels - self.n_first
        self.of_second = _Subnetwork(
            n_second + N_POSITION, n_hidden, 2 * self.n_first, kernel
        )
        self.of_first = _Subnetwork(
            self.n_first + N_POSITION, n_hidden, 2 * n_second, kernel
        )

    def forward(self, features: Grid, position: Grid) -> tuple[Grid, LogDeterminants]:
        """Return changed features and the log-determinant at each position."""
        permuted = features[:, self.permutation]
        first, second = permuted[:, : self.n_first], permuted[:, self.n_first :]
        exponents, shifts = self.of_second(torch.cat([second, position], dim=1))
        first = first * torch.exp(exponents) + shifts
        others, shifts = self.of_first(torch.cat([first, position], dim=1))
        second = second * torch.exp(others) + shifts
        return torch.cat([first, second], dim=1), exponents.sum(1) + others.sum(1)


class Teacher(nn.Module):
    """The flow.

    Args:
        n_channels: Channels of the features, even.
        n_hidden: Hidden channels of the subnetworks.
        seed: Seed of the permutations.
    """

    def __init__(self, n_channels: int, n_hidden: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.blocks = nn.ModuleList(
            TeacherBlock(n_channels, n_hidden, kernel, generator) for kernel in _KERNELS
        )

    def forward(self, features: Grid) -> tuple[Grid, LogDeterminants]:
        """Return noise and the log-determinant at each position."""
        position = positions(features)
        total = torch.zeros_like(features[:, 0])
        for block in self.blocks:
            features, determinants = block(features, position)
            total = total + determinants
        return features, total


class _Residual(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n)]
            layers.append(nn.LeakyReLU(_LEAKY_SLOPE))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Grid) -> Grid:
        """Return the features and what the layers add."""
        added: Tensor = self.layers(features)
        return features + added


class Student(nn.Module):
    """The network that predicts the teacher's noise.

    Args:
        n_channels: Channels of the features.
        width: Channels of the hidden layers.
    """

    def __init__(self, n_channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(n_channels + N_POSITION, width, 3, padding=1),
            nn.LeakyReLU(_LEAKY_SLOPE),
            *(_Residual(width) for _ in range(_N_RESIDUAL)),
            nn.Conv2d(width, n_channels, 3, padding=1),
        )

    def forward(self, features: Grid) -> Grid:
        """Return the predicted noise."""
        predicted: Tensor = self.layers(torch.cat([features, positions(features)], 1))
        return predicted


class AsymmetricStudentTeacher(Method):
    """Finds features where student and teacher differ."""

    Settings = AsymmetricSettings

    def __init__(self, stages: Sequence[Stages], settings: AsymmetricSettings) -> None:
        super().__init__(stages, settings)
        n = self.stages.channels[settings.strides[0]]
        self.teacher = Teacher(n, settings.teacher_width, settings.seed)
        self.student = Student(n, settings.student_width)

    def title(self) -> str:
        """Return the name in tables, with what was replaced."""
        own = self.settings
        return (
            f"AST, {self.stages.architecture} stride {own.strides[0]}, "
            f"{own.input_size} px, widths {own.teacher_width}/{own.student_width}"
        )

    def phases(self, pixels: NormalPixels) -> Iterator[Phase]:
        """Yield the training of the teacher, then that of the student."""
        features = self.cached(pixels, self._features)
        for name, network, loss, share in (
            ("teacher", self.teacher, self._teacher_loss, _TEACHER_SHARE),
            ("student", self.student, self._student_loss, 1 - _TEACHER_SHARE),
        ):
            yield Phase(
                name=name,
                optimizer=torch.optim.Adam(
                    network.parameters(), lr=2e-4, weight_decay=1e-5
                ),
                inputs=features,
                loss=loss,
                n_epochs=self.settings.n_epochs,
                batch_size=self.settings.batch_size,
                share=share,
            )

    def output(self, images: Inputs) -> Output:
        """Return the map of squared differences; the score is its mean."""
        features = self._features(images)
        noise, _ = self.teacher(features)
        raw: Maps = (self.student(features) - noise).square().mean(1)
        return Output({"anomaly": on_grid(raw)}, {"score": raw.mean((1, 2))})

    def _features(self, images: Inputs) -> Grid:
        (features,) = self.stages(images)
        found: Tensor = features
        return found

    def _teacher_loss(self, batch: Grid, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing is drawn
        noise, determinants = self.teacher(batch.float())
        losses: Tensor = noise.square().sum(1) / 2 - determinants
        return losses.mean()

    def _student_loss(self, batch: Grid, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing is drawn
        features = batch.float()
        with torch.no_grad():
            noise, _ = self.teacher(features)
        error: Tensor = self.student(features) - noise
        return error.square().mean()


def positions(features: Grid) -> Float[Tensor, "batch 32 _ _"]:
    """Return sines and cosines of the column, then of the row, of each feature."""
    n, _, rows, columns = features.shape
    half = N_POSITION // 2
    rates = torch.exp(torch.arange(0, half, 2) * (-math.log(_POSITION_BASE) / half))
    codes = []
    for length in (columns, rows):
        angles = torch.arange(length)[:, None] * rates
        code = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        codes.append(code.T)
    across = codes[0][:, None, :].expand(half, rows, columns)
    down = codes[1][:, :, None].expand(half, rows, columns)
    return torch.cat([across, down]).to(features).expand(n, -1, -1, -1)
