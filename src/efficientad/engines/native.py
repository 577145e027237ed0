"""Both raw maps of a detector by native layers: the same numbers, much faster.

The images' normalization is folded into the first convolutions, the teacher's channel
statistics into its last. Teacher and student lie side by side in one grid of channels,
with the autoencoder's last features next to them, and

    T - S   is one convolution over the features of teacher and student,
    A - S'  is one convolution over the features of student and autoencoder,

so that only the mean of squares, the same for S' - A, is written. `kernels.layers`
computes the convolutions, the 1 x 1 ones of the medium networks in bf16 if asked to. No
torch here.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.engine import EngineOutput, Pixels, Precision
from efficientad.engines.weights import (
    Arrays,
    Weights,
    difference,
    on_pixels,
    pair_of,
    require_whole_panels,
    split_outputs,
    weights_of,
)
from efficientad.errors import ConfigError
from efficientad.images.rgb import INPUT_SIZE
from efficientad.kernels import layers
from efficientad.kernels.layers import (
    MIN_WINOGRAD_SIZE,
    Call,
    Convolution,
    Finish,
    Grid,
    convolution,
    resize,
    run,
    to_float,
)
from efficientad.method.composition import (
    Composition,
    cells_of,
    head_weights,
    image_values,
)
from efficientad.method.sizes import (
    DECODER_SIZES,
    GRID_SIZE,
    IMAGENET_MEAN,
    ModelSize,
)

# Images that go through the layers together; more would only take more memory.
_LARGEST_BATCH = 4
_BORDER = 1  # the padding of the autoencoder's first convolution
_SMALL_TILE, _LARGE_TILE, _POOLED_TILE = 6, 7, 8

Step = Callable[[int | None], None]
"""Function of the number of threads that computes grids of a plan from others."""


class NativeEngine:
    """Computes the raw maps of one detector by native layers.

    The weights are transformed once: later changes of the detector have no effect.

    Args:
        arrays: Weights and statistics of a detector.
        size: The paper's S or M.
        bf16: Round the factors of 1 x 1 convolutions to bf16; needs
            `kernels.layers.has_bf16()`. The small networks have no such convolutions.
        n_threads: Threads of one run. None: as many as OpenMP takes.

    Raises:
        ConfigError: If the native layers cannot be built, or take other numbers of
            channels.
    """

    is_concurrent = True
    device: Literal["cpu"] = "cpu"

    def __init__(
        self,
        arrays: Arrays,
        size: ModelSize,
        *,
        bf16: bool = False,
        n_threads: int | None = None,
    ) -> None:
        if not layers.is_available():
            raise ConfigError(
                "the native engine needs its layers, which cannot be built here; use "
                "engine pytorch"
            )
        require_whole_panels(arrays)
        self.precision: Precision = "bf16" if bf16 and size == "medium" else "fp32"
        taught = weights_of(arrays, "teacher.convolutions")
        learned = weights_of(arrays, "student.convolutions")
        names = ("teacher_mean", "teacher_std")
        mean, std = (arrays[name].astype(np.float64) for name in names)
        weight, bias = taught[-1]
        self._head = head_weights(weight, std).astype(np.float32)
        self._composition = Composition.from_arrays(arrays)
        taught[-1] = weight / std.reshape(-1, 1, 1, 1), (bias - mean) / std
        autoencoder = _Reconstruction(arrays)
        self._networks: _Small | _Medium
        if size == "small":
            self._networks = _Small(taught, learned, autoencoder)
        else:
            self._networks = _Medium(taught, learned, autoencoder, bf16=bf16)
        self._n_threads = n_threads
        self._local = threading.local()

    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute the raw maps and values of a batch, (n, 256, 256, 3)."""
        starts = range(0, len(pixels), _LARGEST_BATCH)
        batches = (pixels[start : start + _LARGEST_BATCH] for start in starts)
        found = [self._plan(len(b)).run(b, self._n_threads) for b in batches]
        local, global_ = np.concatenate([maps for maps, _ in found], 1)
        pooled = np.concatenate([cells for _, cells in found])
        cells = np.einsum("ncf,of->nco", pooled, self._head).reshape(len(pixels), -1)
        values = image_values(cells, self._composition)
        return EngineOutput({"local": local, "global": global_}, values)

    def _plan(self, n: int) -> "_Plan":
        """Return grids and steps for n images, which each thread has of its own."""
        plans: dict[int, _Plan] = self._local.__dict__.setdefault("plans", {})
        if n not in plans:
            plans[n] = _Plan(n, self._networks)
        return plans[n]


class _Plan:
    """Grids for n images and the steps that fill them, in order."""

    def __init__(self, n: int, networks: "_Small | _Medium") -> None:
        side = INPUT_SIZE + 2 * _BORDER
        # Outside the image is what normalization sends to zero: the mean.
        margin = np.array(IMAGENET_MEAN, np.float32) * np.float32(255)
        bordered = np.broadcast_to(margin, (n, side, side, 3)).copy()
        inner = slice(_BORDER, _BORDER + INPUT_SIZE)
        self._image = bordered[:, inner, inner]
        self._maps = np.empty((2, n, GRID_SIZE, GRID_SIZE, 1), np.float32)
        self._steps, self._hidden = networks.steps(
            bordered, self._image, list(self._maps)
        )

    def run(
        self, pixels: Pixels, n_threads: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both maps, (2, n, 56, 56), and the hidden features of the cells.

        The features are the teacher's, (n, 16, channels).
        """
        to_float(pixels, self._image, n_threads)
        for step in self._steps:
            step(n_threads)
        return self._maps[..., 0].copy(), np.stack([cells_of(h) for h in self._hidden])


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
        for_teacher, for_autoencoder = split_outputs(student[-1], len(teacher[-1][0]))
        describe = autoencoder.describe
        # A 3 x 3 kernel is a 4 x 4 one with zeros; the grids have the border it needs.
        describe = np.pad(describe[0], ((0, 0), (0, 0), (0, 1), (0, 1))), describe[1]
        self._differences = [
            _layer(w, "mean_square", tile=_LARGE_TILE)
            for w in (
                difference(teacher[-1], for_teacher),
                difference(for_autoencoder, describe),
            )
        ]
        self._autoencoder = autoencoder

    def steps(
        self, bordered: Grid, image: Grid, maps: list[Grid]
    ) -> tuple[list[Step], Grid]:
        """Return the steps, and the teacher's hidden features that they write."""
        first, second = self._pairs
        width, n = first[0].n_out, len(image)
        first_step, hidden = _applied(self._first, image)
        pooled = _empty(n, *_size_after(first[0], hidden), 2 * width)
        n_joined = 2 * width + self._autoencoder.n_features
        joined = np.zeros((n, *_size_after(second[0], pooled), n_joined), np.float32)
        inner = slice(1, 1 + GRID_SIZE)
        features = joined[:, inner, inner, 2 * width :]
        local, global_ = self._differences
        steps = [
            first_step,
            _side_by_side(first, hidden, hidden.shape[3] // 2, pooled),
            _side_by_side(second, pooled, width, joined[..., : 2 * width]),
            *self._autoencoder.steps(bordered, features),
            _step(
                Call(local, joined[..., : 2 * width], maps[0]),
                Call(global_, joined[..., width:], maps[1]),
            ),
        ]
        return steps, joined[..., :width]


class _Medium:
    """Teacher and student of EfficientAD-M, layer by layer side by side."""

    def __init__(
        self,
        teacher: list[Weights],
        student: list[Weights],
        autoencoder: "_Reconstruction",
        *,
        bf16: bool,
    ) -> None:
        self._first = _first_layer(teacher[0], student[0])
        # The layer without a tile is the one of 1 x 1.
        finishes: list[tuple[Finish, int | None]] = [
            ("pool", _POOLED_TILE),
            ("store", None),
            ("store", _SMALL_TILE),
            ("store", _LARGE_TILE),
        ]
        self._pairs = [
            [_layer(w, finish, tile=tile, bf16=bf16 and not tile) for w in weights]
            for (finish, tile), *weights in zip(
                finishes, teacher[1:-1], student[1:-1], strict=True
            )
        ]
        for_teacher, for_autoencoder = split_outputs(student[-1], len(teacher[-1][0]))
        local = difference(teacher[-1], for_teacher)
        self._local = _layer(local, "mean_square", bf16=bf16)
        self._describe = _layer(
            autoencoder.describe, "store", tile=_SMALL_TILE, padding=1, relu=False
        )
        weight, bias = for_autoencoder
        self._global = _layer((-weight, -bias), "mean_square", bf16=bf16)
        self._autoencoder = autoencoder

    def steps(
        self, bordered: Grid, image: Grid, maps: list[Grid]
    ) -> tuple[list[Step], Grid]:
        """Return the steps, and the teacher's hidden features that they write."""
        n = len(image)
        step, grid = _applied(self._first, image)
        steps, split = [step], grid.shape[3] // 2
        for pair in self._pairs:
            n_out = sum(layer.n_out for layer in pair)
            output = _empty(n, *_size_after(pair[0], grid), n_out)
            steps.append(_side_by_side(pair, grid, split, output))
            grid, split = output, pair[0].n_out
        features = _empty(n, GRID_SIZE, GRID_SIZE, self._autoencoder.n_features)
        describe, described = _applied(self._describe, features)
        steps = [
            *steps,
            *self._autoencoder.steps(bordered, features),
            describe,
            _step(
                Call(self._local, grid, maps[0]),
                Call(self._global, grid[..., split:], maps[1], described),
            ),
        ]
        return steps, grid[..., :split]


class _Reconstruction:
    """The autoencoder up to its last features; `describe` is the layer after them."""

    def __init__(self, arrays: Arrays) -> None:
        first, *others = weights_of(arrays, "autoencoder.encoder")
        # The border is part of the image's grid.
        bottleneck = pair_of(arrays, "autoencoder.bottleneck")
        self._encoder = [
            _layer(on_pixels(first), "store", stride=2),
            *(_layer(w, "store", stride=2, padding=1) for w in others),
            _layer(bottleneck, "store", relu=False),
        ]
        decoder = weights_of(arrays, "autoencoder.decoder")
        self._decoder = [
            _layer(weights, "store", padding=2, tile=_cheapest_tile(size))
            for weights, size in zip(decoder, DECODER_SIZES, strict=True)
        ]
        self._refine = _layer(
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
        return [*steps, resizing, _step(Call(self._refine, grid, features))]


def _first_layer(teacher: Weights, student: Weights) -> Convolution:
    """Return both networks' first layers as one of pixels."""
    pairs = zip(on_pixels(teacher), on_pixels(student), strict=True)
    weight, bias = map(np.concatenate, pairs)
    # With three input channels, Winograd's form pays along x only.
    return _layer((weight, bias), "pool", tile=_SMALL_TILE, flat=True)


def _cheapest_tile(size: int) -> int | None:
    """Return the tile with the fewest products for a decoder layer, if it takes one.

    Args:
        size: Width of the layer's input, one less than that of its output.
    """
    if size < MIN_WINOGRAD_SIZE:
        return None
    products = {
        tile: (-(-(size + 1) // tile) * (tile + 3)) ** 2
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
    bf16: bool = False,
) -> Convolution:
    """Return a convolution, with ReLU unless it is the last one of a network."""
    return convolution(
        *weights,
        stride=stride,
        padding=padding,
        relu=finish != "mean_square" if relu is None else relu,
        finish=finish,
        tile=tile,
        flat=flat,
        bf16=bf16,
    )


def _empty(*shape: int) -> Grid:
    return np.empty(shape, np.float32)


def _size_after(layer: Convolution, grid: Grid) -> tuple[int, int]:
    return layer.output_size(grid.shape[1], grid.shape[2])


def _applied(layer: Convolution, grid: Grid) -> tuple[Step, Grid]:
    """Return the step that runs a layer, and its output."""
    output = _empty(len(grid), *_size_after(layer, grid), layer.n_out)
    return _step(Call(layer, grid, output)), output


def _resized(grid: Grid, size: int) -> tuple[Step, Grid]:
    """Return the step that resizes a grid, and its output."""
    output = _empty(len(grid), size, size, grid.shape[3])
    return (lambda n_threads: resize(grid, output, n_threads)), output


def _side_by_side(
    pair: Sequence[Convolution], grid: Grid, split: int, output: Grid
) -> Step:
    """Return the step that runs two layers on the channels before and from `split`."""
    n_first = pair[0].n_out
    sources = grid[..., :split], grid[..., split:]
    targets = output[..., :n_first], output[..., n_first:]
    return _step(*map(Call, pair, sources, targets))


def _step(*calls: Call) -> Step:
    return lambda n_threads: run(calls, n_threads)
