"""Both raw maps of a detector by native layers: the same numbers, several times sooner.

Exact algebra first. The images' normalization is folded into the first convolutions,
the teacher's channel statistics into its last. Teacher and student lie side by side in
one grid of channels, with the autoencoder's last features next to them, and

    T - S   is one convolution over the features of teacher and student,
    A - S'  is one convolution over the features of student and autoencoder,

so that of all their channels only the mean of their squares is ever written. How the
convolutions are computed is told in `kernels.layers`.

The 1 x 1 convolutions of the medium networks, which no algebra makes smaller, can be
computed from numbers rounded to bf16.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from efficientad.images.rgb import INPUT_SIZE
from efficientad.kernels.layers import (
    MIN_WINOGRAD_SIZE,
    Call,
    Convolution,
    Finish,
    convolution,
    resize,
    run,
    to_float,
)
from efficientad.method.inputs import IMAGENET_MEAN, IMAGENET_STD, Pixels
from efficientad.method.maps import RawMaps
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import DECODER_SIZES, GRID_SIZE

# So many images go through the layers together; more would only take more memory.
_LARGEST_BATCH = 4
_BORDER = 1  # the padding of the autoencoder's first convolution
_SMALL_TILE, _LARGE_TILE, _POOLED_TILE = 6, 7, 8

Weights = tuple[Tensor, Tensor]
"""Weight and bias of a convolution, in double precision; a weight in bfloat16 asks for
products so."""

Step = Callable[[], None]


class NativeMaps:
    """Computes the raw maps of RGB pixels, for one detector's weights as they are now.

    Needs `kernels.layers.is_available()`. Several threads may use it at once.

    Args:
        teacher: Without batch normalization, as the student.
        student: Of the same size.
        autoencoder: The third network.
        mean: Of each of the teacher's channels.
        std: Likewise.
        bf16: Round what 1 x 1 convolutions multiply to bf16; needs
            `kernels.layers.has_bf16()`. The small networks have no such convolutions.
    """

    def __init__(
        self,
        teacher: PatchDescriptionNetwork,
        student: PatchDescriptionNetwork,
        autoencoder: Autoencoder,
        mean: Tensor,
        std: Tensor,
        *,
        bf16: bool = False,
    ) -> None:
        taught, learned = _weights(teacher), _weights(student)
        scale = std.double().cpu()
        weight, bias = taught[-1]
        taught[-1] = (
            weight / scale.view(-1, 1, 1, 1),
            (bias - mean.double().cpu()) / scale,
        )
        if bf16:
            taught, learned = (
                [_rounded(w) if _is_1x1(w) else w for w in weights]
                for weights in (taught, learned)
            )
        build = _Small if teacher.size == "small" else _Medium
        self._networks = build(taught, learned, _Reconstruction(autoencoder))
        self._local = threading.local()

    def __call__(self, pixels: Pixels) -> RawMaps:
        """Compare the networks on images of 256 x 256 pixels."""
        batches = torch.split(pixels, _LARGEST_BATCH)
        maps = [self._plan(len(batch)).maps(batch) for batch in batches]
        return RawMaps(
            torch.cat([m.local_map for m in maps]),
            torch.cat([m.global_map for m in maps]),
        )

    def _plan(self, n: int) -> "_Plan":
        """Give the grids and steps for n images, which each thread has of its own."""
        plans: dict[int, _Plan] = self._local.__dict__.setdefault("plans", {})
        if n not in plans:
            plans[n] = _Plan(n, self._networks)
        return plans[n]


class _Plan:
    """Grids for n images and the steps that fill them, in order."""

    def __init__(self, n: int, networks: "_Small | _Medium") -> None:
        side = INPUT_SIZE + 2 * _BORDER
        # Outside the image is what normalization sends to zero: the mean.
        margin = torch.tensor(IMAGENET_MEAN) * 255
        bordered = margin.expand(n, side, side, 3).contiguous()
        inner = slice(_BORDER, _BORDER + INPUT_SIZE)
        self._image = bordered[:, inner, inner]
        self._maps = torch.empty(2, n, GRID_SIZE, GRID_SIZE, 1)
        self._steps = networks.steps(bordered, self._image, self._maps)

    def maps(self, pixels: Pixels) -> RawMaps:
        to_float(pixels, self._image)
        for step in self._steps:
            step()
        local_map, global_map = self._maps.squeeze(-1).clone()
        return RawMaps(local_map, global_map)


class _Small:
    """Teacher and student of EfficientAD-S, layer by layer side by side."""

    def __init__(
        self,
        teacher: list[Weights],
        student: list[Weights],
        autoencoder: "_Reconstruction",
    ) -> None:
        self._first = _first_layer(teacher[0], student[0])
        self._pairs = [
            [_layer(w, "pool", tile=_POOLED_TILE) for w in (teacher[1], student[1])],
            [_layer(w, "store", tile=_SMALL_TILE) for w in (teacher[2], student[2])],
        ]
        for_teacher, for_autoencoder = _split(student[-1], len(teacher[-1][0]))
        describe = autoencoder.describe
        # A 3 x 3 kernel is a 4 x 4 one with zeros; the grids have the border it needs.
        describe = functional.pad(describe[0], (0, 1, 0, 1)), describe[1]
        self._differences = [
            _layer(w, "mean_square", tile=_LARGE_TILE)
            for w in (
                _difference(teacher[-1], for_teacher),
                _difference(describe, for_autoencoder, subtrahend_first=True),
            )
        ]
        self._autoencoder = autoencoder

    def steps(self, bordered: Tensor, image: Tensor, maps: Tensor) -> list[Step]:
        n = len(image)
        hidden = _grid_after(self._first, image)
        width = self._pairs[0][0].n_out
        second = torch.empty(n, *_size_after(self._pairs[0][0], hidden), 2 * width)
        size = _size_after(self._pairs[1][0], second)
        n_described = self._autoencoder.n_features
        joined = torch.zeros(n, *size, 2 * width + n_described)
        half = hidden.shape[3] // 2
        inner = slice(1, 1 + GRID_SIZE)
        steps = [
            _step(Call(self._first, image, hidden)),
            _step(
                Call(self._pairs[0][0], hidden[..., :half], second[..., :width]),
                Call(self._pairs[0][1], hidden[..., half:], second[..., width:]),
            ),
            _step(
                Call(self._pairs[1][0], second[..., :width], joined[..., :width]),
                Call(
                    self._pairs[1][1],
                    second[..., width:],
                    joined[..., width : 2 * width],
                ),
            ),
        ]
        features = joined[:, inner, inner, 2 * width :]
        steps += self._autoencoder.steps(bordered, features)
        local, global_ = self._differences
        steps.append(
            _step(
                Call(local, joined[..., : 2 * width], maps[0]),
                Call(global_, joined[..., width:], maps[1]),
            )
        )
        return steps


class _Medium:
    """Teacher and student of EfficientAD-M, layer by layer side by side."""

    def __init__(
        self,
        teacher: list[Weights],
        student: list[Weights],
        autoencoder: "_Reconstruction",
    ) -> None:
        self._first = _first_layer(teacher[0], student[0])
        finishes: list[tuple[Finish, int | None]] = [
            ("pool", _POOLED_TILE),
            ("store", None),
            ("store", _SMALL_TILE),
            ("store", _LARGE_TILE),
        ]
        self._pairs = [
            [_layer(w, finish, tile=tile) for w in weights]
            for (finish, tile), *weights in zip(
                finishes, teacher[1:-1], student[1:-1], strict=True
            )
        ]
        for_teacher, for_autoencoder = _split(student[-1], len(teacher[-1][0]))
        self._local = _layer(_difference(teacher[-1], for_teacher), "mean_square")
        self._describe = _layer(
            autoencoder.describe, "store", tile=_SMALL_TILE, padding=1, relu=False
        )
        weight, bias = for_autoencoder
        self._global = _layer((-weight, -bias), "mean_square")
        self._autoencoder = autoencoder

    def steps(self, bordered: Tensor, image: Tensor, maps: Tensor) -> list[Step]:
        n = len(image)
        grid = _grid_after(self._first, image)
        steps = [_step(Call(self._first, image, grid))]
        split = grid.shape[3] // 2
        for pair in self._pairs:
            widths = [layer.n_out for layer in pair]
            output = torch.empty(n, *_size_after(pair[0], grid), sum(widths))
            sources = grid[..., :split], grid[..., split:]
            split = widths[0]
            targets = output[..., :split], output[..., split:]
            calls = map(Call, pair, sources, targets)
            steps.append(_step(*calls))
            grid = output
        features = torch.empty(n, GRID_SIZE, GRID_SIZE, self._autoencoder.n_features)
        described = torch.empty(n, GRID_SIZE, GRID_SIZE, self._describe.n_out)
        steps += self._autoencoder.steps(bordered, features)
        return [
            *steps,
            _step(Call(self._describe, features, described)),
            _step(
                Call(self._local, grid, maps[0]),
                Call(self._global, grid[..., split:], maps[1], described),
            ),
        ]


class _Reconstruction:
    """The autoencoder up to its last features; who compares them takes `describe`."""

    def __init__(self, network: Autoencoder) -> None:
        encoder = [_doubles(m) for m in network.encoder]
        first, *others = encoder
        # The border is part of the image's grid.
        self._encoder = [_layer(_on_pixels(first), "store", stride=2)]
        self._encoder += [_layer(w, "store", stride=2, padding=1) for w in others]
        self._encoder.append(_layer(_doubles(network.bottleneck), "store", relu=False))
        self._decoder = [
            _layer(
                _doubles(m),
                "store",
                padding=2,
                tile=_cheapest_tile(size + 1) if size >= MIN_WINOGRAD_SIZE else None,
            )
            for m, size in zip(network.decoder, DECODER_SIZES, strict=True)
        ]
        self._refine = _layer(
            _doubles(network.refine), "store", padding=1, tile=_SMALL_TILE
        )
        self.describe = _doubles(network.describe)
        self.n_features = self._refine.n_out

    def steps(self, bordered: Tensor, features: Tensor) -> list[Step]:
        """From the image with its border to `features` on the descriptor grid."""
        steps: list[Step] = []
        grid = bordered
        for layer in self._encoder:
            output = _grid_after(layer, grid)
            steps.append(_step(Call(layer, grid, output)))
            grid = output
        for layer, size in zip(self._decoder, DECODER_SIZES, strict=True):
            steps.append(_resizing(grid, resized := _square(grid, size)))
            output = _grid_after(layer, resized)
            steps.append(_step(Call(layer, resized, output)))
            grid = output
        steps.append(_resizing(grid, resized := _square(grid, GRID_SIZE)))
        return [*steps, _step(Call(self._refine, resized, features))]


def _weights(network: PatchDescriptionNetwork) -> list[Weights]:
    return [_doubles(module) for module in network.convolutions]


def _doubles(module: nn.Module) -> Weights:
    assert isinstance(module, nn.Conv2d)
    assert module.bias is not None
    return module.weight.detach().cpu().double(), module.bias.detach().cpu().double()


def _is_1x1(weights: Weights) -> bool:
    return weights[0].shape[-1] == 1


def _rounded(weights: Weights) -> Weights:
    weight, bias = weights
    return weight.bfloat16(), bias


def _on_pixels(weights: Weights) -> Weights:
    """Fold the images' normalization in: the same function of pixels from 0 to 255."""
    weight, bias = weights
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) * 255
        for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return weight / std, bias - (weight * mean / std).sum((1, 2, 3))


def _stacked(one: Weights, other: Weights) -> Weights:
    """Two convolutions of the same input as one."""
    return torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])


def _split(weights: Weights, n_first: int) -> tuple[Weights, Weights]:
    """One convolution as two of the same input."""
    weight, bias = weights
    return (weight[:n_first], bias[:n_first]), (weight[n_first:], bias[n_first:])


def _difference(
    one: Weights, other: Weights, *, subtrahend_first: bool = False
) -> Weights:
    """One minus the other, over the features of both side by side."""
    parts = [one[0], -other[0]]
    return torch.cat(parts[::-1] if subtrahend_first else parts, 1), one[1] - other[1]


def _first_layer(teacher: Weights, student: Weights) -> Convolution:
    """Both on pixels; with three input channels, Winograd's form pays along x only."""
    weights = _stacked(_on_pixels(teacher), _on_pixels(student))
    return _layer(weights, "pool", tile=_SMALL_TILE, flat=True)


def _cheapest_tile(n_outputs: int) -> int:
    """Tell which tile covers so many outputs a side with the fewest products."""
    products = {
        tile: (-(-n_outputs // tile) * (tile + 3)) ** 2
        for tile in (_SMALL_TILE, _POOLED_TILE)
    }
    return min(products, key=products.__getitem__)


def _layer(
    weights: Weights,
    finish: Finish,
    *,
    stride: int = 1,
    padding: int = 0,
    tile: int | None = None,
    flat: bool = False,
    relu: bool | None = None,
) -> Convolution:
    """A hidden layer has ReLU, the last one of a network has not."""
    return convolution(
        *weights,
        stride=stride,
        padding=padding,
        relu=finish != "mean_square" if relu is None else relu,
        finish=finish,
        tile=tile,
        flat=flat,
    )


def _size_after(layer: Convolution, grid: Tensor) -> tuple[int, int]:
    return layer.output_size(grid.shape[1], grid.shape[2])


def _grid_after(layer: Convolution, grid: Tensor) -> Tensor:
    return torch.empty(len(grid), *_size_after(layer, grid), layer.n_out)


def _square(grid: Tensor, size: int) -> Tensor:
    return torch.empty(len(grid), size, size, grid.shape[3])


def _step(*calls: Call) -> Step:
    return lambda: run(calls)


def _resizing(grid: Tensor, output: Tensor) -> Step:
    return lambda: resize(grid, output)
