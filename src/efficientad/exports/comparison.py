"""How far an export is from PyTorch, and what accuracy it loses; too much is refused.

What is compared with PyTorch are both normalized maps on the grid of descriptors. What
the graph makes of them, score and maps at the image's own size, is then compared with
what this package makes of the same grids.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.exported import (
    GRID_OUTPUTS,
    MAP_OUTPUTS,
    SCORE_OUTPUT,
    OnnxRuntimeEngine,
    OpenVinoEngine,
)
from efficientad.errors import ExportMismatchError
from efficientad.exports.calibration_images import spread
from efficientad.exports.graph_nodes import MAX_SIDE
from efficientad.images.rgb import INPUT_SIZE, ImageLike, RGBImage, as_rgb, resize_image
from efficientad.inspection.exported_predictor import ExportedPredictor
from efficientad.method.placement import place_map
from efficientad.model_files.export_metadata import ONNX_SUFFIX, Precision

if TYPE_CHECKING:
    from efficientad.method.detector import Detector

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


def compared(
    detector: "Detector",
    exported: ExportedPredictor,
    normal: Sequence[ImageLike],
) -> Differences:
    """Measure how far an export is from PyTorch.

    Args:
        detector: Judges by PyTorch here.
        exported: What was made of it.
        normal: Real images, if there are any; up to `N_COMPARED` are compared, read one
            by one.

    Raises:
        ImageError: If one cannot be read.
        ExportMismatchError: If a difference is above the tolerance, or not a number.
    """
    artificial, real = artificial_images(), spread(normal, N_COMPARED)
    chosen, detector.runtime = detector.runtime, "pytorch"
    try:
        return Differences(
            _largest(
                detector, exported, artificial, ARTIFICIAL_TOLERANCE, "artificial"
            ),
            len(artificial),
            _largest(detector, exported, real, TOLERANCE, "real") if real else None,
            len(real),
        )
    finally:
        detector.runtime = chosen


def require_outputs(path: Path, precision: Precision) -> None:
    """Refuse a file whose score or maps are not those of its grids.

    They are run as other programs run them, in a batch of two images of another size
    than the networks'.

    Raises:
        ExportMismatchError: If one differs.
    """
    engine: OnnxRuntimeEngine | OpenVinoEngine
    if path.suffix == ONNX_SUFFIX:
        engine = OnnxRuntimeEngine(path)
    else:
        engine = OpenVinoEngine(path, precision=precision, is_whole=True)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 130, 210, 3), dtype=np.uint8)
    found = engine.run_whole(images)
    local, overall = found[GRID_OUTPUTS[0]], found[GRID_OUTPUTS[1]]
    combined: NDArray[np.float32] = (local + overall) / np.float32(2)
    grids = [combined, local, overall]
    expected = {SCORE_OUTPUT: combined.max((1, 2))}
    for name, grid in zip(MAP_OUTPUTS, grids, strict=True):
        expected[name] = np.stack([place_map(one, *images.shape[1:3]) for one in grid])
    for name, values in expected.items():
        difference = (
            relative_difference(values, found[name])
            if values.shape == found[name].shape
            else float("inf")
        )
        if not difference <= _OUTPUT_TOLERANCE[precision]:
            raise ExportMismatchError(
                f"an export's {name} must be that of its own grids within "
                f"{_OUTPUT_TOLERANCE[precision]:g} of the largest value, it differs by "
                f"{difference:.3g}; use another format, or the .ead file"
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
    detector: "Detector",
    exported: ExportedPredictor,
    category: Path,
    max_loss: float,
) -> Losses:
    """Measure what an export changes on the test images of a category.

    Raises:
        ExportMismatchError: If it loses more than `max_loss` of any metric.
    """
    from efficientad.evaluation.evaluate import evaluate  # noqa: PLC0415 - heavy

    evaluations = evaluate(detector, category), evaluate(exported, category)
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
    detector: "Detector",
    exported: ExportedPredictor,
    images: Sequence[ImageLike],
    tolerances: Mapping[Precision, float],
    kind: str,
) -> float:
    precision, tolerance = exported.precision, tolerances[exported.precision]
    # Not by `max`, which may pass over what is not a number: that is refused, too.
    largest = float(np.max([_difference(detector, exported, i) for i in images]))
    if not largest <= tolerance:
        raise ExportMismatchError(
            f"an export in {precision} must give PyTorch's maps within {tolerance:g} "
            f"of their largest value, on {kind} images it differs by {largest:.3g}; "
            "use a higher precision, or the .ead file"
        )
    return largest


def _difference(
    detector: "Detector", exported: ExportedPredictor, image: ImageLike
) -> float:
    """Compare as the graph is, which resizes images itself up to a limit."""
    pixels = as_rgb(image)
    if max(pixels.shape) > MAX_SIDE:
        pixels = resize_image(pixels, INPUT_SIZE, INPUT_SIZE)
    expected, found = detector.predict(pixels), exported.judge(pixels[np.newaxis])
    differences = []
    for value, other in (
        (expected.local_grid, found.local_grids[0]),
        (expected.global_grid, found.global_grids[0]),
    ):
        differences.append(relative_difference(value, other))
    return float(np.max(differences))
