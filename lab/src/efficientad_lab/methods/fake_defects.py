"""Fake defects for DSR: masks of Perlin noise, wrong codebook entries, smudges."""

import math
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from efficientad_lab.methods.stages import Grid

Masks = Float[Tensor, "batch 1 _ _"]
"""1 where a defect is, otherwise 0."""

_LARGEST_POWER: Final = 5
_THRESHOLD: Final = 0.5
_EMPTY_SHARE: Final = 0.5
_NEAREST_LEFT_OUT: Final = 0.05
_LEAST_REACH: Final = 0.2
_GREATEST_BETA: Final = 0.8


def perlin(size: int, generator: torch.Generator) -> Float[Tensor, "_ _"]:
    """Return Perlin noise of size x size, about -1 to 1, with random scales.

    Args:
        size: Rows and columns, a multiple of 32.
        generator: Generator of scales and gradients.
    """
    powers = torch.randint(_LARGEST_POWER + 1, (2,), generator=generator).tolist()
    cells = [2**power for power in powers]
    angles = torch.rand(cells[0] + 1, cells[1] + 1, generator=generator) * 2 * math.pi
    gradients = torch.stack([angles.cos(), angles.sin()], dim=-1)
    axes = [torch.arange(size) * (n / size) for n in cells]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    first_row, first_column = rows.long(), columns.long()
    row, column = rows - first_row, columns - first_column

    def corner(down: int, right: int) -> Tensor:
        gradient = gradients[first_row + down, first_column + right]
        return gradient[..., 0] * (row - down) + gradient[..., 1] * (column - right)

    fade_row, fade_column = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (row, column))
    upper = torch.lerp(corner(0, 0), corner(0, 1), fade_column)
    lower = torch.lerp(corner(1, 0), corner(1, 1), fade_column)
    return math.sqrt(2) * torch.lerp(upper, lower, fade_row)


def masks(n: int, size: int, generator: torch.Generator) -> Masks:
    """Return masks of defects, about half of them empty."""
    found = torch.zeros(n, 1, size, size)
    is_empty = torch.rand(n, generator=generator) < _EMPTY_SHARE
    for index in (~is_empty).nonzero().ravel().tolist():
        found[index, 0] = (perlin(size, generator) > _THRESHOLD).float()
    return found


def with_wrong_entries(
    quantized: Grid,
    entries: Float[Tensor, "_ channels"],
    mask: Masks,
    generator: torch.Generator,
) -> Grid:
    """Return quantized vectors with others in the place of those under a mask.

    Each is drawn from the entries near to the right one: from the nearest share of
    them, 0.2 to 1 for each image, without the nearest 5 %.

    Args:
        quantized: Vectors of one level.
        entries: The codebook.
        mask: Mask of any larger size; a vector is under it where any pixel is.
        generator: Generator of the draws.
    """
    chosen: Bool[Tensor, "batch _ _"] = (
        functional.adaptive_max_pool2d(mask, tuple(quantized.shape[2:]))[:, 0] > 0
    )
    changed = quantized.movedim(1, -1).clone()
    reaches = torch.rand(len(quantized), generator=generator)
    for index in range(len(quantized)):
        vectors = changed[index][chosen[index]]
        if len(vectors) == 0:
            continue
        order = torch.cdist(vectors, entries).argsort(1)
        reach = _LEAST_REACH + (1 - _LEAST_REACH) * float(reaches[index])
        first = int(_NEAREST_LEFT_OUT * len(entries))
        last = max(first + 1, int(reach * len(entries)))
        ranks = torch.randint(first, last, (len(vectors), 1), generator=generator)
        changed[index][chosen[index]] = entries[order.gather(1, ranks)[:, 0]]
    return changed.movedim(-1, 1)


def smudged(images: Grid, mask: Masks, generator: torch.Generator) -> Grid:
    """Return images with a uniform color of random opacity under a mask."""
    n = len(images)
    colors = torch.rand(n, 3, 1, 1, generator=generator)
    beta = _GREATEST_BETA * torch.rand(n, 1, 1, 1, generator=generator)
    return images * (1 - mask) + mask * (beta * images + (1 - beta) * colors)
