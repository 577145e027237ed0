"""Convolutions in 8 bits, but for those whose rounding hurts the maps.

Hidden channels are equalized (`equalization.py`), weights rounded so that they make up
for each other (`weight_rounding.py`), and the convolutions read bytes
(`rounded_graph.py`).

What is left of the rounding is noise, and a mean of squares grows by the square of it,
most in cells of low values, which set the level of a map. It is measured on
normal images and taken off again where that brings a map closer.

Should the error of the maps still be above a limit, each convolution alone goes back to
single precision, which tells how much it costs; the costliest stay there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.graph_outputs import GRID_OUTPUTS, RAW_OUTPUTS
from efficientad.exports.calibration_images import spread
from efficientad.exports.equalization import equalized
from efficientad.exports.graph import PIXELS
from efficientad.exports.inner_values import inner_values
from efficientad.exports.rounded_graph import (
    Rounding,
    never_negative,
    rounded_graph,
    without,
)
from efficientad.exports.weight_rounding import LEVELS, kernels_of_bytes
from efficientad.images.rgb import RGBImage
from efficientad.method.maps import HIGH_TARGET, LOW_TARGET

if TYPE_CHECKING:
    import onnx

_RAW, _NORMALIZED = tuple(RAW_OUTPUTS.values()), tuple(GRID_OUTPUTS.values())

LIMIT: Final = 0.1
"""Largest root mean square error of a map on calibration images, as a share of the
distance between the quantiles of normal pixels."""

_N_FOR_ERRORS: Final = 8
"""Images, at most, on which errors and noise are measured."""

Grids = NDArray[np.float32]
"""Both maps of each image, (images, 2, 56, 56)."""


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """Which convolutions stayed in single precision, and what the others cost."""

    n_convolutions: int
    in_single_precision: tuple[str, ...]
    """The costliest first."""
    error: float
    """As `LIMIT` measures it."""

    def __str__(self) -> str:
        kept = ", ".join(self.in_single_precision) or "none"
        return (
            f"{self.n_convolutions} convolutions in 8 bits but for {kept}; error of "
            f"the maps {self.error:.2g} of the distance between the quantiles"
        )


def quantized(
    model: "onnx.ModelProto", images: Sequence[RGBImage]
) -> tuple["onnx.ModelProto", QuantizationReport]:
    """Round the convolutions of a detector's graph to 8 bits.

    Args:
        model: As `detector_graph` gives it.
        images: Normal ones, at least one; ranges and errors are measured on them.
    """
    measured_on = spread(images, _N_FOR_ERRORS)
    exact = _maps(model, measured_on)
    model, rounding = _measured(model, images)

    def tried(*kept: str) -> _Candidate:
        return _candidate(rounded_graph(model, rounding, kept), measured_on, exact)

    kept: tuple[str, ...] = ()
    chosen = everything = tried()
    if everything.error > LIMIT:
        costs = {
            name: everything.error - tried(name).error for name in rounding.kernels
        }
        by_cost = sorted(costs, key=lambda name: -costs[name])
        while chosen.error > LIMIT and len(kept) < len(by_cost):
            kept = tuple(by_cost[: len(kept) + 1])
            chosen = tried(*kept)
    return chosen.model, QuantizationReport(len(rounding.kernels), kept, chosen.error)


def _measured(
    model: "onnx.ModelProto", images: Sequence[RGBImage]
) -> tuple["onnx.ModelProto", Rounding]:
    """Equalize a graph, and measure what rounding it needs."""
    names = never_negative(model)
    channels = {name: np.zeros(1) for name in names}
    for of_image in inner_values(model, names, images):
        for name, value in of_image.items():
            channels[name] = np.maximum(channels[name], value.max((1, 2)))
    model, channels = equalized(model, channels)
    largest = {name: float(each.max()) for name, each in channels.items()}
    for node in model.graph.node:
        if node.op_type == "Concat" and node.output[0] in largest:
            for name in node.input:
                largest[name] = largest[node.output[0]]
    # Pixels are bytes as they are.
    largest[PIXELS] = float(LEVELS)
    return model, Rounding(largest, kernels_of_bytes(model, largest, images))


class _Maps(NamedTuple):
    """Maps of a graph for some images."""

    raw: Grids
    normalized: Grids


class _Candidate(NamedTuple):
    """A rounded graph, and how far its worse map is from the exact one."""

    model: "onnx.ModelProto"
    error: float


def _candidate(
    rounded: "onnx.ModelProto", images: Sequence[RGBImage], exact: _Maps
) -> _Candidate:
    """Take off the noise of a rounded graph, of each map where that helps."""
    found = _maps(rounded, images)
    noise = _noise(exact.raw, found.raw)
    before = _errors(exact.normalized, found.normalized)
    after = _errors(exact.normalized, _maps(without(rounded, noise), images).normalized)
    helping = {
        name: amount
        for name, amount, helps in zip(
            _RAW, noise.values(), after < before, strict=True
        )
        if helps
    }
    # A map is made of its own raw map alone.
    error = np.minimum(before, after).max()
    return _Candidate(without(rounded, helping), float(error))


def _maps(model: "onnx.ModelProto", images: Sequence[RGBImage]) -> _Maps:
    values = list(inner_values(model, (*_RAW, *_NORMALIZED), images))
    raw, normalized = (
        np.array([[of_image[name] for name in names] for of_image in values])
        for names in (_RAW, _NORMALIZED)
    )
    return _Maps(raw, normalized)


def _noise(exact: Grids, found: Grids) -> dict[str, float]:
    """Return how much rounding raises the lower half of each map, by its name."""
    is_low = exact <= np.median(exact, (0, 2, 3), keepdims=True)
    raised = np.where(is_low, found - exact, np.nan)
    return dict(zip(_RAW, np.nanmedian(raised, (0, 2, 3)).tolist(), strict=True))


def _errors(exact: Grids, found: Grids) -> NDArray[np.float32]:
    """Return the error of each map, as `LIMIT` measures it."""
    squares = ((exact - found) ** 2).mean((0, 2, 3))
    errors: Grids = np.sqrt(squares) / np.float32(HIGH_TARGET - LOW_TARGET)
    return errors
