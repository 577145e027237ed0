"""The networks of a detector as steps of native layers.

The images' normalization is folded into the first convolutions, the teacher's channel
statistics into its last. First layers that teacher and student share are computed once.
After them both lie side by side in one grid of channels, with the autoencoder's last
features next to them, and

    T - S   is one convolution over the features of teacher and student,
    A - S'  is one convolution over the features of student and autoencoder,

so that only the mean of squares, the same for S' - A, is written. No torch here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from efficientad.engines.weights import (
    Arrays,
    Weights,
    describing_layer,
    difference,
    n_shared,
    on_pixels,
    pair_of,
    side_by_side,
    split_outputs,
    weights_of,
)
from efficientad.kernels.layers import (
    MIN_WINOGRAD_SIZE,
    Call,
    Convolution,
    Finish,
    Grid,
    Resizing,
    Step,
    convolution,
)
from efficientad.method.composition import Network
from efficientad.method.sizes import DECODER_SIZES, GRID_SIZE, ModelSize

_SMALL_TILE, _LARGE_TILE, _POOLED_TILE = 6, 7, 8
# With three input channels, Winograd's form pays along x only.
_FIRST: Final = {"finish": "pool", "tile": _SMALL_TILE, "flat": True}

Make = Callable[..., Convolution]
"""Function that makes a layer of weights, a finish and how it is computed."""


def networks_of(
    arrays: Arrays, size: ModelSize, *, bf16: bool = False, is_packed: bool = True
) -> "Small | Medium":
    """Return the networks of a detector.

    Factors of 1 x 1 convolutions of the medium size are rounded if bf16 is asked for.
    Weights that are not packed stay as they are, to be written to a file.
    """
    make = partial(_layer, is_packed=is_packed)
    return Small(arrays, make) if size == "small" else Medium(arrays, make, bf16=bf16)


class _Networks:
    """All networks of a detector as layers: teacher and student side by side.

    Layers that both networks have in common are computed once, and those after them
    by one convolution of their common input. Then each network has a half of the grid.
    The last layer of each is left out; `how` is for the others.
    """

    _local: Convolution

    def __init__(self, arrays: Arrays, make: Make, how: list[dict[str, Any]]) -> None:
        teacher, student = (
            weights_of(arrays, f"{name}.convolutions")
            for name in ("teacher", "student")
        )
        shared = min(n_shared(teacher, student), len(how) - 1)
        first, second = ([on_pixels(n[0]), *n[1:-1]] for n in (teacher, student))
        self._layers: list[list[Convolution]] = []
        for index, (one, other, options) in enumerate(
            zip(first, second, how, strict=True)
        ):
            weights = [one, other]
            if index <= shared:
                weights = [one if index < shared else side_by_side(one, other)]
            self._layers.append([make(each, **options) for each in weights])
        self._autoencoder = Reconstruction(arrays, make)
        self._n_teacher = len(teacher[-2][1])
        self._n_both = sum(layer.n_out for layer in self._layers[-1])
        for_teacher, self._for_autoencoder = split_outputs(
            student[-1], len(teacher[-1][0])
        )
        self._for_local = difference(describing_layer(arrays), for_teacher)

    def _size(self, image: Grid) -> tuple[int, int]:
        """Return the rows and columns of the hidden features of an image."""
        height, width = image.shape[1:3]
        for layer, *_ in self._layers:
            height, width = layer.output_size(height, width)
        return height, width

    def _hidden_steps(self, image: Grid, output: Grid) -> list[Step]:
        """Return the steps from the image to the hidden features of both networks."""
        steps: list[Step] = []
        grid = image
        for layers in self._layers:
            n_out = sum(layer.n_out for layer in layers)
            size = _size_after(layers[0], grid)
            is_last = layers is self._layers[-1]
            after = output if is_last else _empty(len(grid), *size, n_out)
            # Where there are two layers, each reads a half of the channels.
            sources = np.split(grid, len(layers), 3)
            targets = np.split(after, [layers[0].n_out], 3)
            steps.append([*map(Call, layers, sources, targets)])
            grid = after
        return steps

    def _of_each(self, both: Grid) -> dict[Network, Grid]:
        taught, learned = np.split(both, [self._n_teacher], 3)
        return {"teacher": taught, "student": learned}

    def local_steps(self, image: Grid, output: Grid) -> list[Step]:
        """Return the steps from an image to its local map."""
        both = _empty(len(image), *self._size(image), self._n_both)
        return [*self._hidden_steps(image, both), [Call(self._local, both, output)]]


class Small(_Networks):
    """The networks of EfficientAD-S."""

    def __init__(self, arrays: Arrays, make: Make) -> None:
        how = [
            _FIRST,
            {"finish": "pool", "tile": _POOLED_TILE},
            {"finish": "store", "tile": _SMALL_TILE},
        ]
        super().__init__(arrays, make, how)
        kernels, bias = self._autoencoder.describe
        # A 3 x 3 kernel is a 4 x 4 one with zeros; the grids have the border it needs.
        describe = np.pad(kernels, ((0, 0), (0, 0), (0, 1), (0, 1))), bias
        for_global = difference(self._for_autoencoder, describe)
        self._local, self._global = (
            make(weights, "mean_square", tile=_LARGE_TILE)
            for weights in (self._for_local, for_global)
        )

    def steps(
        self, bordered: Grid, image: Grid, maps: list[Grid]
    ) -> tuple[list[Step], dict[Network, Grid]]:
        """Return the steps, and the hidden features of each network."""
        n_joined = self._n_both + self._autoencoder.n_features
        joined = np.zeros((len(image), *self._size(image), n_joined), np.float32)
        both, of_autoencoder = np.split(joined, [self._n_both], 3)
        inner = slice(1, 1 + GRID_SIZE)
        steps = [
            *self._hidden_steps(image, both),
            *self._autoencoder.steps(bordered, of_autoencoder[:, inner, inner]),
            [
                Call(self._local, both, maps[0]),
                Call(self._global, joined[..., self._n_teacher :], maps[1]),
            ],
        ]
        return steps, self._of_each(both)


class Medium(_Networks):
    """The networks of EfficientAD-M."""

    def __init__(self, arrays: Arrays, make: Make, *, bf16: bool) -> None:
        how = [
            _FIRST,
            {"finish": "pool", "tile": _POOLED_TILE},
            {"finish": "store", "bf16": bf16},  # the layer of 1 x 1
            {"finish": "store", "tile": _SMALL_TILE},
            {"finish": "store", "tile": _LARGE_TILE},
        ]
        super().__init__(arrays, make, how)
        self._local = make(self._for_local, "mean_square", bf16=bf16)
        weight, bias = self._for_autoencoder
        self._global = make((-weight, -bias), "mean_square", bf16=bf16)
        describe = self._autoencoder.describe
        self._describe = make(
            describe, "store", tile=_SMALL_TILE, padding=1, relu=False
        )

    def steps(
        self, bordered: Grid, image: Grid, maps: list[Grid]
    ) -> tuple[list[Step], dict[Network, Grid]]:
        """Return the steps, and the hidden features of each network."""
        n = len(image)
        both = _empty(n, *self._size(image), self._n_both)
        features = _empty(n, GRID_SIZE, GRID_SIZE, self._autoencoder.n_features)
        describe, described = _applied(self._describe, features)
        of_each = self._of_each(both)
        steps = [
            *self._hidden_steps(image, both),
            *self._autoencoder.steps(bordered, features),
            describe,
            [
                Call(self._local, both, maps[0]),
                Call(self._global, of_each["student"], maps[1], described),
            ],
        ]
        return steps, of_each


class Reconstruction:
    """The autoencoder up to its last features; `describe` is the layer after them."""

    def __init__(self, arrays: Arrays, make: Make) -> None:
        first, *others = weights_of(arrays, "autoencoder.encoder")
        # The border is part of the image's grid.
        bottleneck = pair_of(arrays, "autoencoder.bottleneck")
        self._encoder = [
            make(on_pixels(first), "store", stride=2),
            *(make(w, "store", stride=2, padding=1) for w in others),
            make(bottleneck, "store", relu=False),
        ]
        decoder = weights_of(arrays, "autoencoder.decoder")
        self._decoder = [
            make(weights, "store", padding=2, tile=_cheapest_tile(size))
            for weights, size in zip(decoder, DECODER_SIZES, strict=True)
        ]
        self._refine = make(
            pair_of(arrays, "autoencoder.refine"), "store", padding=1, tile=_SMALL_TILE
        )
        self.describe = pair_of(arrays, "autoencoder.describe")
        self.n_features = self._refine.n_out

    def steps(self, bordered: Grid, features: Grid) -> list[Step]:
        """Return the steps from the image with its border to `features`."""
        steps: list[Step] = []
        grid = bordered
        for layer in self._encoder:
            step, grid = _applied(layer, grid)
            steps.append(step)
        for layer, size in zip(self._decoder, DECODER_SIZES, strict=True):
            resizing, grid = _resized(grid, size)
            step, grid = _applied(layer, grid)
            steps += [resizing, step]
        resizing, grid = _resized(grid, GRID_SIZE)
        return [*steps, resizing, [Call(self._refine, grid, features)]]


def _cheapest_tile(size: int) -> int | None:
    """Return the tile with the fewest products for a decoder layer, if it takes one.

    Its input has a width of `size`, one less than that of its output.
    """
    if size < MIN_WINOGRAD_SIZE:
        return None
    products = {
        tile: (-(-(size + 1) // tile) * (tile + 3)) ** 2
        for tile in (_SMALL_TILE, _POOLED_TILE)
    }
    return min(products, key=products.__getitem__)


def _layer(
    weights: Weights, finish: Finish, *, relu: bool | None = None, **how: Any
) -> Convolution:
    """Return a convolution, with ReLU unless it is the last one of a network."""
    relu = finish != "mean_square" if relu is None else relu
    return convolution(*weights, relu=relu, finish=finish, **how)


def _empty(*shape: int) -> Grid:
    return np.empty(shape, np.float32)


def _size_after(layer: Convolution, grid: Grid) -> tuple[int, int]:
    return layer.output_size(grid.shape[1], grid.shape[2])


def _applied(layer: Convolution, grid: Grid) -> tuple[Step, Grid]:
    """Return the step that runs a layer, and its output."""
    output = _empty(len(grid), *_size_after(layer, grid), layer.n_out)
    return [Call(layer, grid, output)], output


def _resized(grid: Grid, size: int) -> tuple[Step, Grid]:
    """Return the step that resizes a grid, and its output."""
    output = _empty(len(grid), size, size, grid.shape[3])
    return Resizing(grid, output), output
