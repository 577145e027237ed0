"""The ideas behind the native layers, one by one: before and after.

Each step computes the same numbers in two ways, on grids of the small model at batch 1;
the last one, in bf16, nearly the same, on a grid of the medium model.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from efficientad.kernels.layers import (
    Call,
    Finish,
    convolution,
    has_bf16,
    run,
    to_float,
)
from efficientad.method.inputs import normalize_images


class Step(NamedTuple):
    """One idea."""

    name: str
    before: Callable[[], object]
    after: Callable[[], object]


def steps() -> list[Step]:
    """All of them; the names are the rows of the table in `docs/speed.md`."""
    return [
        _folded_normalization(),
        _joined_first_convolutions(),
        _one_difference(),
        _mean_of_squares(),
        _convolution("conv 4x4 128 to 256 at 126, ReLU, pool", (128, 256, 4, 126), 8),
        _convolution("conv 3x3 256 to 256 at 61, ReLU", (256, 256, 3, 61), 6),
        _convolution("conv 4x4 256 to 384 at 59", (256, 384, 4, 59), 7),
        _convolution("conv 4x4 64 to 64 at 127, ReLU", (64, 64, 4, 127), 8),
        _convolution("conv 4x4 3 to 128 at 256, ReLU, pool", (3, 128, 4, 256), 6),
        *([_in_bf16()] if has_bf16() else []),
    ]


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _weights(n_in: int, n_out: int, kernel: int) -> tuple[Tensor, Tensor]:
    return _random(n_out, n_in, kernel, kernel) / (kernel * n_in**0.5), _random(n_out)


def _folded_normalization() -> Step:
    pixels = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    grid = torch.empty(1, 256, 256, 3)
    return Step(
        "normalization of images folded into the first convolution",
        lambda: normalize_images(pixels),
        lambda: to_float(pixels, grid),
    )


def _native(
    image: Tensor,
    weights: tuple[Tensor, Tensor],
    tile: int | None,
    finish: Finish,
    *,
    relu: bool,
    flat: bool = False,
) -> Callable[[], Tensor]:
    layer = convolution(*weights, tile=tile, flat=flat, finish=finish, relu=relu)
    channels = 1 if finish == "mean_square" else layer.n_out
    output = torch.empty(1, *layer.output_size(*image.shape[1:3]), channels)

    def call() -> Tensor:
        run([Call(layer, image, output)])
        return output

    return call


def _joined_first_convolutions() -> Step:
    image = _random(1, 256, 256, 3)
    one, other = _weights(3, 128, 4), _weights(3, 128, 4)
    both = torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])
    first = _native(image, one, 6, "pool", relu=True, flat=True)
    second = _native(image, other, 6, "pool", relu=True, flat=True)
    return Step(
        "first convolutions of teacher and student as one",
        lambda: (first(), second()),
        _native(image, both, 6, "pool", relu=True, flat=True),
    )


def _one_difference() -> Step:
    image = _random(1, 59, 59, 512)
    one, other = _weights(256, 384, 4), _weights(256, 384, 4)
    teacher = _native(image[..., :256], one, 7, "store", relu=False)
    student = _native(image[..., 256:], other, 7, "store", relu=False)
    joined = torch.cat([one[0], -other[0]], 1), one[1] - other[1]
    difference = _native(image, joined, 7, "store", relu=False)
    return Step(
        "T - S as one convolution",
        lambda: (teacher() - student()).square().mean(-1),
        lambda: difference().square().mean(-1),
    )


def _mean_of_squares() -> Step:
    image, weights = _random(1, 59, 59, 512), _weights(512, 384, 4)
    stored = _native(image, weights, 7, "store", relu=False)
    return Step(
        "channel mean of squares within the layer",
        lambda: stored().square().mean(-1),
        _native(image, weights, 7, "mean_square", relu=False),
    )


def _in_bf16() -> Step:
    image, (weight, bias) = _random(1, 61, 61, 512), _weights(512, 512, 1)
    return Step(
        "medium: conv 1x1 512 to 512 at 61 in bf16",
        _native(image, (weight, bias), None, "store", relu=True),
        _native(image, (weight.bfloat16(), bias), None, "store", relu=True),
    )


def _convolution(name: str, shape: tuple[int, int, int, int], tile: int) -> Step:
    n_in, n_out, kernel, size = shape
    weights = _weights(n_in, n_out, kernel)
    image = _random(1, size, size, n_in)
    plain = image.permute(0, 3, 1, 2).contiguous()
    pools, has_relu = "pool" in name, "ReLU" in name

    def before() -> Tensor:
        result = functional.conv2d(plain, *weights)
        if has_relu:
            result = functional.relu(result, inplace=True)
        return functional.avg_pool2d(result, 2, 2) if pools else result

    finish: Finish = "pool" if pools else "store"
    after = _native(image, weights, tile, finish, relu=has_relu, flat=n_in == 3)  # noqa: PLR2004 - RGB
    return Step(name, before, after)
