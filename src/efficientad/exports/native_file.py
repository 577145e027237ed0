"""A file for the C interface: weights, steps and decision of a detector, as numbers.

The steps are those of the native engine for one image, with grids as parts of buffers,
so that C and Python compute the same by the same layers. `kernels/native_file.h` reads
the file. All numbers are little-endian: int64, float64, or arrays of a kind, each with
its length before it.
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from efficientad.decisions.decision import Calibration
from efficientad.decisions.rule import Rule
from efficientad.engines.native import Plan
from efficientad.engines.native_networks import networks_of
from efficientad.engines.weights import Arrays, head_of, require_whole_panels
from efficientad.errors import ConfigError
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.tiling import WHOLE
from efficientad.kernels import layers
from efficientad.kernels.layers import (
    FINISHES,
    Call,
    Convolution,
    Grid,
    Resizing,
    Step,
    block_size,
)
from efficientad.method.composition import (
    COMPOSITION,
    Composition,
    cell_window,
    composed_network,
)
from efficientad.method.sizes import GRID_SIZE, ModelSize
from efficientad.storage import write_atomically

_MAGIC: Final = b"EADNATIV"
_FORMAT: Final = 1
_KINDS: Final = ("float64", "float32")
"""Kinds of weights: many are not changed before they are transformed."""


class _Writer:
    """Bytes of numbers one after another."""

    def __init__(self) -> None:
        self.content = bytearray()

    def integers(self, *values: int) -> None:
        self.content += struct.pack(f"<{len(values)}q", *values)

    def numbers(self, *values: float | None) -> None:
        """Append numbers; None becomes NaN."""
        plain = [float("nan") if value is None else value for value in values]
        self.content += struct.pack(f"<{len(plain)}d", *plain)

    def array(self, values: NDArray[Any] | Sequence[int], kind: str) -> None:
        """Append an array; `kind` is its type, as NumPy names it."""
        plain = np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<"))
        self.integers(plain.size)
        self.content += plain.tobytes()


def write_native(
    predictor: Predictor, weights: Arrays, size: ModelSize, path: Path
) -> None:
    """Write a detector for the C interface to one file, atomically.

    Raises:
        ConfigError: If the predictor has tiles, alignment or levels, or the native
            layers do not work here or do not take its numbers of channels.
        StorageError: If the file cannot be written; an earlier file stays.
    """
    for has_it, what in (
        (predictor.preparation.size != WHOLE, "tiles"),
        (predictor.preparation.alignment is not None, "alignment"),
        (predictor.preparation.levels is not None, "levels of 16-bit images"),
    ):
        if has_it:
            raise ConfigError(
                f"the C interface sees whole images as they are, this detector has "
                f"{what}; train one without, or predict from Python"
            )
    if not layers.is_available():
        raise ConfigError(
            "a file for the C interface needs the native layers, which cannot be built "
            "here; export it where a C++ compiler is"
        )
    require_whole_panels(weights)
    composition = Composition.from_arrays(weights)
    network = composed_network(composition)
    plan = Plan(1, networks_of(weights, size, is_packed=False))
    writer = _Writer()
    _write_networks(writer, plan, plan.hidden[network])
    writer.integers(*cell_window(plan.hidden[network].shape[1], network))
    term = predictor.calibration.terms.get(COMPOSITION)
    if term is None or composition is None:
        for _ in ("mean", "scale", "axes", "head"):
            writer.array([], "float32")
        writer.numbers(0, 0)
    else:
        head = head_of(weights, network)
        for values in (composition.mean, composition.scale, composition.axes, head):
            writer.array(values, "float32")
        writer.numbers(term.center, term.slope)
    _write_decision(writer, predictor.calibration)
    checksum = zlib.crc32(writer.content)
    start = _MAGIC + struct.pack("<2q", _FORMAT, checksum)
    write_atomically(path, start + writer.content)


def _write_networks(writer: _Writer, plan: Plan, hidden: Grid) -> None:
    outputs = [plan.image, *plan.maps, hidden]
    grids = list(outputs)
    found: dict[int, Convolution] = {}
    for step in plan.steps:
        for call in [step] if isinstance(step, Resizing) else step:
            grids += [call.input, call.output]
            if isinstance(call, Call):
                found[id(call.layer)] = call.layer
    buffers = {id(_buffer(grid)): _buffer(grid) for grid in grids}
    writer.array([buffer.size for buffer in buffers.values()], "int64")
    places = {name: index for index, name in enumerate(buffers)}
    # The first buffer is the image's, which begins with its margin.
    writer.numbers(*_buffer(plan.image)[0, 0, 0].tolist())
    for grid in outputs:
        _write_place(writer, grid, places)
    writer.integers(len(found))
    for layer in found.values():
        _write_layer(writer, layer)
    writer.integers(len(plan.steps))
    numbers = {name: number for number, name in enumerate(found)}
    for step in plan.steps:
        _write_step(writer, step, places, numbers)


def _buffer(grid: Grid) -> Grid:
    """Return the whole array that a grid is a part of."""
    return grid if grid.base is None else _buffer(grid.base)


def _write_place(writer: _Writer, grid: Grid, places: dict[int, int]) -> None:
    buffer = _buffer(grid)
    offset = (grid.ctypes.data - buffer.ctypes.data) // grid.itemsize
    *_, row, pixel, _ = (stride // grid.itemsize for stride in grid.strides)
    height, width, channels = grid.shape[-3:]
    writer.integers(places[id(buffer)], offset, height, width, channels, pixel, row)


def _write_layer(writer: _Writer, layer: Convolution) -> None:
    writer.integers(layer.n_in, layer.n_out, layer.kernel, layer.stride, layer.padding)
    finish = FINISHES.index(layer.finish)
    writer.integers(layer.relu, finish, layer.tile or 0, layer.flat)
    single = layer.weights.astype(np.float32)
    is_single = bool((single == layer.weights).all())
    writer.integers(is_single)
    writer.array(single if is_single else layer.weights, _KINDS[is_single])
    writer.array(layer.bias, "float32")


def _write_step(
    writer: _Writer, step: Step, places: dict[int, int], numbers: dict[int, int]
) -> None:
    if isinstance(step, Resizing):
        writer.integers(0)
        for grid in step:
            _write_place(writer, grid, places)
        return
    writer.integers(len(step), block_size(step[0].layer))
    for call in step:
        writer.integers(numbers[id(call.layer)])
        _write_place(writer, call.input, places)
        _write_place(writer, call.output, places)
        writer.integers(call.residual is not None)
        if call.residual is not None:
            _write_place(writer, call.residual, places)


def _write_decision(writer: _Writer, calibration: Calibration) -> None:
    for name in ("local", "global"):
        scale = calibration.scales[name]
        writer.numbers(scale.low, scale.high, *(scale.levels or (None, None)))
    writer.integers(calibration.score_has_map)
    writer.numbers(calibration.threshold, calibration.unsure_threshold)
    writer.array(np.array(calibration.normal_scores), "float64")
    _write_rule(writer, calibration.rule)


def _write_rule(writer: _Writer, rule: Rule) -> None:
    is_whole = not rule.region_of_interest
    writer.integers(*((0, 0) if is_whole else rule.mask.shape))
    for mask in (rule.cells(GRID_SIZE, GRID_SIZE), rule.inside(GRID_SIZE, GRID_SIZE)):
        writer.array([] if mask is None else mask, "uint8")
    writer.numbers(rule.min_area, rule.image_mm2)
