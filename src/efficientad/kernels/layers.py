"""Whole layers of inference in native code: convolution and what follows it, fused.

Plain arrays in and out: no torch here, and no gradients (training uses `winograd.py`).

A layer is a convolution with bias, then ReLU or not, then one of three finishes: store
the result, average it over 2 x 2, or give only the channel mean of its squares.
Stride 1 with 3 x 3 or 4 x 4 kernels goes by Winograd's form with tiles of 6 to 8
outputs, in both directions or, with few input channels, along x only; other kernels
by patches and one product, in bf16 if that is asked for and the processor has such
products. All are described in `layers.cpp`.
Weights are transformed in double precision and packed once.

Grids are float32 arrays (n, height, width, channels), spaced as their strides say, so
that layers can write side by side into one grid that a later layer reads as a whole.
"""

import ctypes
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from efficientad.cores import default_threads
from efficientad.kernels import native, prebuilt
from efficientad.kernels.cook_toom import FORMS, matrices_header
from efficientad.kernels.prebuilt import Functions

Grid = NDArray[np.float32]
"""(n, height, width, channels), channels contiguous."""
Doubles = NDArray[np.float64]
Finish = Literal["store", "pool", "mean_square"]
FINISHES: tuple[Finish, ...] = ("store", "pool", "mean_square")

# Tiles, strips, and pixels that one thread takes through a layer at once: few enough
# for the cache, enough to use each weight often.
_TILES, _STRIPS, _PIXELS = 56, 12, 48
FLAT_FORMS = ((6, 4),)
"""The (outputs, taps) of Winograd's form along x only."""
MIN_WINOGRAD_SIZE = 14
"""Below this width Winograd's tiles are mostly empty; measured."""
_HUGE_PAGE = 1 << 21
# Share of the standard deviation; rounding stays far below, a mistake does not.
_TOLERATED = 1e-2


class _Grid(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *native.int64_fields("n", "height", "width", "pixel", "row", "image"),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("input", _Grid),
        ("output", _Grid),
        *((name, ctypes.c_void_p) for name in ("weights", "bias", "residual")),
        *native.int64_fields("in_channels", "out_channels", "kernel", "stride"),
        *native.int64_fields("padding", "relu", "finish"),
    ]


@functools.cache
def _library() -> Functions | None:
    try:
        functions = prebuilt.load()
    except (OSError, AttributeError) as error:
        native.warn_once(str(error), "the wheel's native layers", "layers built here")
        functions = None
    if functions is not None:
        return functions
    library = native.load("layers", {"layers_matrices.h": matrices_header()})
    return None if library is None else Functions(library, "native")


@functools.cache
def is_available() -> bool:
    """Return whether native layers can be built here and compute the right numbers."""
    if _library() is None:
        return False
    is_right = all(
        _deviation(*form, flat=flat) < _TOLERATED
        for flat, forms in ((False, FORMS), (True, FLAT_FORMS))
        for form in forms
    )
    if not is_right:
        native.warn_once("they give wrong numbers here")
    return is_right


@functools.cache
def has_bf16() -> bool:
    """Return whether products in bf16 work here; needs `is_available()`."""
    return bool(_loaded().has_bf16()) and _deviation(None, 1, bf16=True) < _TOLERATED


def panel() -> int:
    """Return the number of channels that are computed together; a power of two."""
    return int(_loaded().panel())


def description() -> str:
    """Return in words what computes predictions on the CPU."""
    if not is_available():
        return "PyTorch's layers"
    kind = _loaded().instruction_set
    source = "compiled here" if kind == "native" else f"compiled ahead for {kind}"
    return f"native layers, {source}{', also bf16' if has_bf16() else ''}"


def _deviation(
    tile: int | None, kernel: int, *, flat: bool = False, bf16: bool = False
) -> float:
    """Return the error of one small layer, as a share of the standard deviation."""
    rng = np.random.default_rng(0)
    grid = rng.standard_normal((1, 17, 18, 32), np.float32)
    weight = rng.standard_normal((32, 32, kernel, kernel))
    if bf16:
        grid = _from_bf16(_to_bf16(grid))
        weight = _from_bf16(_to_bf16(weight)).astype(np.float64)
    windows = sliding_window_view(grid.astype(np.float64), (kernel, kernel), (1, 2))
    expected = np.einsum("nyxiab,oiab->nyxo", windows, weight)
    layer = convolution(weight, np.zeros(32), tile=tile, flat=flat, bf16=bf16)
    output = np.empty(expected.shape, np.float32)
    run([Call(layer, grid, output)])
    return float(np.abs(output - expected).max() / expected.std())


def _loaded() -> Functions:
    library = _library()
    assert library is not None
    return library


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Packed weights of one layer, and how to apply them. See `convolution`."""

    weights: NDArray[Any]
    """Packed, bf16 as 16-bit words; or not, (out, in, kernel, kernel), float64."""
    bias: NDArray[np.float32]
    n_in: int
    n_out: int
    kernel: int
    stride: int
    padding: int
    relu: bool
    finish: Finish
    tile: int | None
    """Outputs of a Winograd tile in one dimension; None: patches and a product."""
    flat: bool
    """Whether Winograd's form is along x only."""
    bf16: bool
    """Whether factors are rounded to bf16; sums are not."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the output for those of the input."""
        scale = 2 if self.finish == "pool" else 1
        rows, columns = (
            ((size + 2 * self.padding - self.kernel) // self.stride + 1) // scale
            for size in (height, width)
        )
        return rows, columns


def convolution(  # noqa: PLR0913 - an argument for each property of a layer
    weight: Doubles,
    bias: Doubles,
    *,
    stride: int = 1,
    padding: int = 0,
    relu: bool = False,
    finish: Finish = "store",
    tile: int | None = None,
    flat: bool = False,
    bf16: bool = False,
    is_packed: bool = True,
) -> Convolution:
    """Return a layer with its weights, (out, in, kernel, kernel), packed.

    Channels are filled up with zeros where the form needs whole vectors of the
    processor. A tile is the outputs of Winograd's form, as in `cook_toom.FORMS`, even
    if it pools, with a stride of 1; without a tile, there are patches and one product.
    Winograd's flat form is along x only, as in `FLAT_FORMS`: for few input channels,
    and any finish but the mean of squares. In bf16, which takes half the time where
    `has_bf16()`, factors are rounded: for an even number of products a sum, without a
    tile. Weights that are not packed stay as they are, to be written to a file.
    """
    n_out, n_in, kernel, _ = weight.shape
    assert not bf16 or (tile is None and kernel**2 * n_in % 2 == 0)
    assert not flat or ((tile, kernel) in FLAT_FORMS and finish != "mean_square")
    more_in = -n_in % _loaded().lanes() if tile and not flat else 0
    more_out = -n_out % panel()
    margins = ((0, more_out), (0, more_in), (0, 0), (0, 0))
    weights: NDArray[Any] = np.pad(weight, margins)
    if is_packed:
        weights = _packed_pairs(weights) if bf16 else _packed(weights, tile, flat=flat)
    return Convolution(
        weights=weights,
        bias=np.pad(bias, (0, more_out)).astype(np.float32),
        n_in=n_in + more_in,
        n_out=n_out + more_out,
        kernel=kernel,
        stride=stride,
        padding=padding,
        relu=relu,
        finish=finish,
        tile=tile,
        flat=flat,
        bf16=bf16,
    )


def _packed_pairs(weight: Doubles) -> NDArray[np.uint16]:
    """Return (panels, pairs of rows, columns of a panel, 2) in bf16, on huge pages."""
    width = panel()
    n_out, n_in, kernel, _ = weight.shape
    pairs = weight.transpose(2, 3, 1, 0).reshape(-1, 2, n_out // width, width)
    shape = (n_out // width, kernel**2 * n_in // 2, width, 2)
    packed: NDArray[np.uint16] = _huge(shape, np.dtype(np.uint16))
    packed[:] = _to_bf16(pairs.transpose(2, 0, 3, 1))
    return packed


def _packed(weight: Doubles, tile: int | None, *, flat: bool) -> NDArray[np.float32]:
    """Return (panels, planes, rows, columns of a panel), float32, on huge pages."""
    width = panel()
    n_out, n_in, kernel, _ = weight.shape
    side = tile + kernel - 1 if tile else 1
    n_planes = side if flat else side**2
    n_rows = n_in * (kernel if flat else 1) * (1 if tile else kernel**2)
    shape = (n_out // width, n_planes, n_rows, width)
    packed: NDArray[np.float32] = _huge(shape, np.dtype(np.float32))
    weight = np.ascontiguousarray(weight, np.float64)
    sizes = (n_out, n_in, kernel, tile or 0, flat)
    _loaded().pack(
        ctypes.c_void_p(weight.ctypes.data),
        *map(ctypes.c_int64, sizes),
        ctypes.c_void_p(packed.ctypes.data),
        ctypes.c_int64(_threads(None)),
    )
    return packed


def _to_bf16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Round finite values to bf16, half to even, as 16-bit words."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: NDArray[np.uint16] = ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(
        np.uint16
    )
    return rounded


def _from_bf16(words: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (words.astype(np.uint32) << 16).view(np.float32)


def _huge(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return memory on huge pages, where the system agrees."""
    n = dtype.itemsize * math.prod(shape)
    memory = np.empty(n + _HUGE_PAGE, np.uint8)
    start = -memory.ctypes.data % _HUGE_PAGE
    _loaded().advise_huge(
        ctypes.c_void_p(memory.ctypes.data + start), ctypes.c_int64(n)
    )
    return memory[start : start + n].view(dtype).reshape(shape)


class Resizing(NamedTuple):
    """Two grids of as many channels, of which one is resized to the other."""

    input: Grid
    output: Grid


class Call(NamedTuple):
    """One layer with its grids."""

    layer: Convolution
    input: Grid
    output: Grid
    residual: Grid | None = None
    """Added to the output before the finish; (n, height, width, out), contiguous."""


Step = Sequence[Call] | Resizing


def run(step: Step, n_threads: int | None = None) -> None:
    """Compute a step: layers of one kind that are independent, or a resizing.

    The result does not depend on the number of threads, by default `default_threads()`.
    """
    if isinstance(step, Resizing):
        resize(*step, n_threads)
        return
    layers = (_Layer * len(step))(*(_layer(call) for call in step))
    first = step[0].layer
    if first.tile is None:
        name = "patches_bf16" if first.bf16 else "patches"
    else:
        kind = "strips" if first.flat else "winograd"
        name = f"{kind}_{first.tile}_{first.kernel}"
    sizes = (len(step), _threads(n_threads), block_size(first))
    getattr(_loaded(), name)(layers, *map(ctypes.c_int64, sizes))


def block_size(layer: Convolution) -> int:
    """Return how many tiles, strips or pixels one thread takes at once."""
    if layer.tile is None:
        return _PIXELS // 4 if layer.finish == "pool" else _PIXELS
    return _STRIPS if layer.flat else _TILES


def _layer(call: Call) -> _Layer:
    layer, grid, output, residual = call
    assert grid.shape[3] == layer.n_in
    assert output.shape[3] == (1 if layer.finish == "mean_square" else layer.n_out)
    return _Layer(
        _grid(grid),
        _grid(output),
        layer.weights.ctypes.data,
        layer.bias.ctypes.data,
        0 if residual is None else residual.ctypes.data,
        layer.n_in,
        layer.n_out,
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.relu,
        FINISHES.index(layer.finish),
    )


def _threads(n_threads: int | None) -> int:
    return default_threads() if n_threads is None else n_threads


def _grid(array: Grid) -> _Grid:
    assert array.dtype == np.float32
    size = array.itemsize
    assert array.strides[3] == size or array.shape[3] == 1
    image, row, pixel = (stride // size for stride in array.strides[:3])
    return _Grid(array.ctypes.data, *array.shape[:3], pixel, row, image)


def resize(grid: Grid, output: Grid, n_threads: int | None = None) -> None:
    """Resize bilinearly, pixel centers on pixel centers, without antialiasing."""
    from_grid, to_grid = _grid(grid), _grid(output)
    _loaded().resize(
        ctypes.byref(from_grid),
        ctypes.byref(to_grid),
        ctypes.c_int64(grid.shape[3]),
        ctypes.c_int64(_threads(n_threads)),
    )


def to_float(
    pixels: NDArray[np.uint8], output: Grid, n_threads: int | None = None
) -> None:
    """Copy bytes (n, height, width, channels) into a float grid."""
    pixels = np.ascontiguousarray(pixels)
    grid = _grid(output)
    _loaded().to_float(
        ctypes.c_void_p(pixels.ctypes.data),
        ctypes.byref(grid),
        ctypes.c_int64(_threads(n_threads)),
    )
