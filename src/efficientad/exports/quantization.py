"""Convolutions in 8 bits.

Hidden channels are equalized (`equalization.py`), weights rounded so that they make up
for each other (`weight_rounding.py`), and the convolutions read bytes
(`rounded_graph.py`).

What is left of the rounding is noise, and a mean of squares grows by the square of it,
most in cells of low values, which set the level of a map. It is measured on
normal images and taken off again where that brings a map closer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.graph_outputs import GRID_OUTPUTS, RAW_OUTPUTS
from efficientad.errors import ExportMismatchError
from efficientad.exports.calibration_images import spread
from efficientad.exports.equalization import equalized
from efficientad.exports.graph import PIXELS
from efficientad.exports.rounded_graph import (
    Rounding,
    never_negative,
    rounded_graph,
    without,
)
from efficientad.exports.weight_rounding import (
    LEVELS,
    inner_values,
    kernels_of_bytes,
)
from efficientad.images.rgb import RGBImage
from efficientad.method.maps import HIGH_TARGET, LOW_TARGET

if TYPE_CHECKING:
    import onnx

_RAW, _NORMALIZED = tuple(RAW_OUTPUTS.values()), tuple(GRID_OUTPUTS.values())

LIMIT: Final = 0.1
"""Largest root mean square error of a map on normal images, as a share of the distance
between the quantiles of normal pixels."""

_N_FOR_NOISE: Final = 8
"""Images, at most, on which noise is measured."""

Grids = NDArray[np.float32]
"""Both maps of each image, (images, 2, 56, 56)."""


def quantized(
    model: "onnx.ModelProto", images: Sequence[RGBImage]
) -> "onnx.ModelProto":
    """Return a detector's graph with its convolutions in 8 bits.

    Ranges and noise are measured on the images, at least one normal one.

    Raises:
        ExportMismatchError: If the error of a map is above `LIMIT`.
    """
    measured_on = spread(images, _N_FOR_NOISE)
    rounded = rounded_graph(*_measured(model, images))
    exact_raw, exact = _maps(model, measured_on)
    found_raw, found = _maps(rounded, measured_on)
    noise = _noise(exact_raw, found_raw)
    _, corrected = _maps(without(rounded, noise), measured_on)
    before, after = (
        ((exact - maps) ** 2).mean((0, 2, 3)) for maps in (found, corrected)
    )
    error = float(np.minimum(before, after).max()) ** 0.5 / (HIGH_TARGET - LOW_TARGET)
    if not error <= LIMIT:
        raise ExportMismatchError(
            f"8 bits may change the maps of normal images by {LIMIT:g} of the distance "
            f"between their quantiles, they change by {error:.2g}; use fp16"
        )
    # A map is made of its own raw map alone.
    helping = zip(noise.items(), after < before, strict=True)
    return without(rounded, dict(amount for amount, is_kept in helping if is_kept))


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


def _maps(model: "onnx.ModelProto", images: Sequence[RGBImage]) -> tuple[Grids, Grids]:
    """Return raw and normalized maps of a graph."""
    values = list(inner_values(model, (*_RAW, *_NORMALIZED), images))
    raw, normalized = (
        np.array([[of_image[name] for name in names] for of_image in values])
        for names in (_RAW, _NORMALIZED)
    )
    return raw, normalized


def _noise(exact: Grids, found: Grids) -> dict[str, float]:
    """Return how much rounding raises the lower half of each map, by its name."""
    is_low = exact <= np.median(exact, (0, 2, 3), keepdims=True)
    raised = np.where(is_low, found - exact, np.nan)
    return dict(zip(_RAW, np.nanmedian(raised, (0, 2, 3)).tolist(), strict=True))
