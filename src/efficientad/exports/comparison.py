"""The difference of an export from PyTorch, and the accuracy it loses.

What is compared with PyTorch are both normalized maps on the grid of descriptors. What
the graph makes of them, score and maps at the image's own size, is then compared with
what this package makes of the same grids.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.engine import Precision
from efficientad.engines.graph_outputs import (
    GRID_OUTPUTS,
    MAP_OUTPUTS,
    RAW_OUTPUTS,
    SCORE_OUTPUT,
    WHOLE,
)
from efficientad.engines.onnxruntime import OnnxRuntimeEngine
from efficientad.engines.openvino import OpenVinoEngine
from efficientad.errors import ExportMismatchError
from efficientad.exports.calibration_images import spread
from efficientad.exports.graph_nodes import MAX_SIDE
from efficientad.images.rgb import INPUT_SIZE, ImageLike, RGBImage, as_rgb, resize_image
from efficientad.inspection.predictor import Predictor
from efficientad.method.maps import MapScale, combine_maps, image_scores, normalize_maps
from efficientad.method.placement import place_map
from efficientad.model_files.export_metadata import ONNX_SUFFIX

TOLERANCE: Final[dict[Precision, float]] = {
    "fp32": 1e-4,
    "fp16": 1e-2,
    "bf16": 0.1,
    "int8": 0.4,
}
"""Largest difference of any grid value from PyTorch's on real images, relative to the
largest value of that map, or to 0.1 (where the high quantile of normal pixels lies) if
that is more."""

ARTIFICIAL_TOLERANCE: Final[dict[Precision, float]] = {
    "fp32": 1e-4,
    "fp16": 1e-2,
    "bf16": 0.3,
    "int8": 0.9,
}
"""The same on constant, extreme and noise images. These drive activations far beyond
what normal images reach; in 16 bits they are rounded more coarsely there, in 8 bits cut
off, still far above normal."""

_OUTPUT_TOLERANCE: Final[dict[Precision, float]] = {
    "fp32": 1e-4,
    "fp16": 1e-3,
    "bf16": 3e-2,
    "int8": 1e-4,
}
"""Largest difference of score and maps from what their own grids give, relative to the
largest value, or to 0.1."""

N_COMPARED: Final = 8
"""Real images that an export is compared on."""

_LEAST_SCALE: Final = 0.1
"""Where the high quantile of normal pixels lies."""

PIXEL_METRICS: Final[tuple[str, ...]] = ("au_pro", "au_spro")
"""A category has one of them, MVTec LOCO's the latter, where defects are annotated."""


class Differences(NamedTuple):
    """The largest differences from PyTorch, and on how many images."""

    artificial: float
    """As `ARTIFICIAL_TOLERANCE` measures it."""
    n_artificial: int
    real: float | None
    """As `TOLERANCE` measures it; None where there are no real images."""
    n_real: int


def artificial_images() -> list[RGBImage]:
    """Constant, extreme and noise images of several shapes."""
    rng = np.random.default_rng(0)
    full, small = (INPUT_SIZE, INPUT_SIZE, 3), (33, 57, 3)
    return [
        np.zeros(full, np.uint8),
        np.full((300, 200, 3), 255, np.uint8),
        np.full(small, 128, np.uint8),
        rng.integers(0, 256, (511, 700, 3), dtype=np.uint8),
        (np.indices((90, 1500)).sum(0) % 2 * 255)
        .astype(np.uint8)[..., None]
        .repeat(3, 2),
    ]


GraphEngine = OnnxRuntimeEngine | OpenVinoEngine


def whole_engine(path: Path, precision: Precision) -> GraphEngine:
    """Return an engine that gives every output of an exported graph."""
    if path.suffix == ONNX_SUFFIX:
        return OnnxRuntimeEngine(path, outputs=GRID_OUTPUTS, precision=precision)
    return OpenVinoEngine(
        path, outputs=GRID_OUTPUTS, precision=precision, more_outputs=WHOLE
    )


def compared(
    predictor: Predictor, engine: GraphEngine, normal: Sequence[ImageLike]
) -> Differences:
    """Measure how far an export is from PyTorch.

    Args:
        predictor: The detector by PyTorch.
        engine: The export, which gives normalized grids.
        normal: Real images, if there are any; up to `N_COMPARED` are compared, read one
            by one.

    Raises:
        ImageError: If one cannot be read.
        ExportMismatchError: If a difference is above the tolerance, or not a number.
    """
    artificial, real = artificial_images(), spread(normal, N_COMPARED)
    of_artificial = _largest(
        predictor, engine, artificial, ARTIFICIAL_TOLERANCE, "artificial"
    )
    of_real = _largest(predictor, engine, real, TOLERANCE, "real") if real else None
    return Differences(of_artificial, len(artificial), of_real, len(real))


def require_outputs(engine: GraphEngine, scales: Mapping[str, MapScale]) -> None:
    """Reject a graph whose score or maps are not those of its raw grids.

    It is run as other programs run it, on a batch of two images of another size than
    the networks'.

    Raises:
        ExportMismatchError: If one differs.
    """
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 130, 210, 3), dtype=np.uint8)
    found = engine.outputs(images, WHOLE)
    raw = {name: found[output] for name, output in RAW_OUTPUTS.items()}
    grids = normalize_maps(raw, scales)
    combined = combine_maps(grids)
    expected = {GRID_OUTPUTS[name]: grid for name, grid in grids.items()}
    expected[SCORE_OUTPUT] = image_scores(combined)
    for name, grid in zip(MAP_OUTPUTS, (combined, *grids.values()), strict=True):
        expected[name] = np.stack([place_map(one, *images.shape[1:3]) for one in grid])
    limit = _OUTPUT_TOLERANCE[engine.precision]
    for name, values in expected.items():
        difference = (
            relative_difference(values, found[name])
            if values.shape == found[name].shape
            else float("inf")
        )
        if not difference <= limit:
            raise ExportMismatchError(
                f"an export's {name} must follow from its raw grids within {limit:g} "
                f"of the largest value, it differs by {difference:.3g}; use another "
                "format, or the .ead file"
            )


def relative_difference(
    expected: NDArray[np.float32], found: NDArray[np.float32]
) -> float:
    """Give the largest difference of any value, relative to the largest expected one.

    Or to 0.1, where the high quantile of normal pixels lies, if that is more.

    Args:
        expected: Normalized maps or scores.
        found: Of the same shape.
    """
    scale = max(float(np.abs(expected).max()), _LEAST_SCALE)
    return float(np.abs(expected - found).max()) / scale


class Losses(NamedTuple):
    """What an export changes on the test images of a category."""

    points: dict[str, float]
    """Of each metric; negative where the export is better."""
    n_other_decisions: int
    """Images that are called otherwise, by the same threshold."""
    n_images: int


def losses_on(
    predictor: Predictor, exported: Predictor, category: Path, max_loss: float
) -> Losses:
    """Measure what an export changes on the test images of a category.

    Raises:
        ExportMismatchError: If it loses more than `max_loss` of any metric.
    """
    from efficientad.evaluation.evaluate import evaluate  # noqa: PLC0415 - heavy

    evaluations = evaluate(predictor, category), evaluate(exported, category)
    before, after = (found.metrics for found in evaluations)
    names = ["image_au_roc", *(name for name in PIXEL_METRICS if name in before)]
    losses = {name: 100 * (before[name] - after[name]) for name in names}
    for name, loss in losses.items():
        if not loss <= max_loss:
            raise ExportMismatchError(
                f"an export may lose {max_loss:g} points of {name} on {category}, it "
                f"loses {loss:.3g}; use a higher precision, give more --images, or "
                "raise --max-loss"
            )
    pairs = zip(*(found.scores for found in evaluations), strict=True)
    is_other = [one.is_anomalous != other.is_anomalous for one, other in pairs]
    return Losses(losses, sum(is_other), len(is_other))


def _largest(
    predictor: Predictor,
    engine: GraphEngine,
    images: Sequence[ImageLike],
    tolerances: Mapping[Precision, float],
    kind: str,
) -> float:
    tolerance = tolerances[engine.precision]
    # Not by `max`, which may pass over what is not a number: that is refused, too.
    largest = float(np.max([_difference(predictor, engine, i) for i in images]))
    if not largest <= tolerance:
        raise ExportMismatchError(
            f"an export in {engine.precision} must give PyTorch's maps within "
            f"{tolerance:g} of their largest value, on {kind} images it differs by "
            f"{largest:.3g}; use a higher precision, or the .ead file"
        )
    return largest


def _difference(predictor: Predictor, engine: GraphEngine, image: ImageLike) -> float:
    """Compare as the graph is, which resizes images itself up to a limit."""
    pixels = as_rgb(image)
    if max(pixels.shape) > MAX_SIDE:
        pixels = resize_image(pixels, INPUT_SIZE, INPUT_SIZE)
    expected = predictor.predict(pixels).grids
    found = engine.run(pixels[np.newaxis]).grids
    return float(
        np.max([relative_difference(expected[k], found[k][0]) for k in expected])
    )
