"""U-Nets: convolutions down and up again, with shortcuts at every size."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from efficientad_lab.methods.stages import Grid


class UNet(nn.Module):
    """A network whose output has the size of its input.

    Args:
        n_in: Channels of the input.
        n_out: Channels of the output.
        widths: Channels at each size, the full one first; each is a half of the one
            before.
        is_bilinear: Whether grids are enlarged linearly and then convolved, not by
            transposed convolutions.
    """

    def __init__(
        self, n_in: int, n_out: int, widths: Sequence[int], *, is_bilinear: bool = False
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _twice(before, width)
            for before, width in zip([n_in, *widths], widths, strict=False)
        )
        smaller = list(pairwise(widths))[::-1]
        enlarge = _convolved if is_bilinear else _transposed
        self.larger = nn.ModuleList(enlarge(deep, width) for width, deep in smaller)
        self.up = nn.ModuleList(_twice(2 * width, width) for width, _ in smaller)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(widths[0], n_out, 1)

    def forward(self, images: Grid) -> Grid:
        """Return the output; sides are multiples of two for each smaller size."""
        shortcuts = []
        for level, block in enumerate(self.down):
            images = block(images if level == 0 else self.pool(images))
            shortcuts.append(images)
        shortcuts.pop()
        for larger, block in zip(self.larger, self.up, strict=True):
            images = block(torch.cat([shortcuts.pop(), larger(images)], dim=1))
        output: Tensor = self.last(images)
        return output


def _twice(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(*_normalized(n_in, n_out), *_normalized(n_out, n_out))


def _normalized(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(n_out), nn.ReLU()


def _transposed(n_in: int, n_out: int) -> nn.Module:
    return nn.ConvTranspose2d(n_in, n_out, 2, stride=2)


def _convolved(n_in: int, n_out: int) -> nn.Module:
    larger = nn.Upsample(scale_factor=2, mode="bilinear")
    return nn.Sequential(larger, *_normalized(n_in, n_out))
