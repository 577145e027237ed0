"""The difference of an export from PyTorch, and the accuracy it loses.

The normalized grids and the points of terms are compared with PyTorch's. Score and maps
of the graph are compared with those that this package computes from the graph's own raw
grids.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientad.decisions.decision import Calibration
from efficientad.engines.engine import Precision
from efficientad.engines.graph_outputs import (
    GRID_OUTPUTS,
    MAP_OUTPUTS,
    MAX_SIDE,
    RAW_OUTPUTS,
    SCORE_OUTPUT,
    WHOLE,
)
from efficientad.engines.onnxruntime import OnnxRuntimeEngine
from efficientad.engines.openvino import OpenVinoEngine
from efficientad.errors import ExportMismatchError
from efficientad.evaluation.evaluate import evaluate
from efficientad.exports.calibration_images import spread
from efficientad.images.rgb import INPUT_SIZE, ImageLike, RGBImage, resize_image
from efficientad.inspection.predictor import Predictor
from efficientad.method.maps import HIGH_TARGET, combine_maps, normalize_maps
from efficientad.method.placement import place_map
from efficientad.model_files.export_metadata import ONNX_SUFFIX

TOLERANCE: Final[dict[Precision, float]] = {
    "fp32": 1e-4,
    "fp16": 1e-2,
    "bf16": 0.1,
    "int8": 0.4,
}
"""Largest `relative_difference` of a grid from PyTorch's on real images."""

ARTIFICIAL_TOLERANCE: Final[dict[Precision, float]] = {
    "fp32": 1e-4,
    "fp16": 1e-2,
    "bf16": 0.3,
    "int8": 0.9,
}
"""The same on artificial images. Their activations reach far beyond those of normal
images: 16 bits round them more coarsely, and 8 bits clip them, still far above
normal."""

_OUTPUT_TOLERANCE: Final[dict[Precision, float]] = {
    "fp32": 1e-4,
    "fp16": 1e-3,
    "bf16": 3e-2,
    "int8": 1e-4,
}
"""Largest `relative_difference` of score and maps from those of the raw grids."""

N_COMPARED: Final = 8
"""Number of real images that an export is compared on."""

PIXEL_METRICS: Final[tuple[str, ...]] = ("au_pro", "au_spro")
"""A category with annotated defects has one of them, MVTec LOCO the latter."""


class Differences(NamedTuple):
    """Largest `relative_difference` of an export's grids from PyTorch's."""

    artificial: float
    n_artificial: int
    real: float | None
    """None if there are no real images."""
    n_real: int

    def lines(self) -> list[str]:
        """Return sentences for a person."""
        found = f"{self.artificial:.2g} on {self.n_artificial} artificial images"
        if self.real is not None:
            found = f"{self.real:.2g} on {self.n_real} real and {found}"
        found = f"largest difference from PyTorch {found}"
        if self.real is not None:
            return [found]
        return [found, "compared on artificial images only; give --images FOLDER"]


class Losses(NamedTuple):
    """Changes by an export on the test images of a category."""

    points: dict[str, float]
    """Points lost by metric; negative where the export is better."""
    n_other_decisions: int
    """Number of images with another decision by the same threshold."""
    n_images: int

    def lines(self) -> list[str]:
        """Return sentences for a person."""
        found = [f"{name} loses {v:.3f} points" for name, v in self.points.items()]
        if not any(name in self.points for name in PIXEL_METRICS):
            found.append("no loss of a pixel metric is known: no defect is annotated")
        n = self.n_other_decisions
        decisions = f"{n} of {self.n_images} test images get another decision"
        if n:
            decisions += (
                "; to measure the scores of normal images again, call efficientad "
                "threshold FILE --images FOLDER"
            )
        return [*found, decisions]


def artificial_images() -> list[RGBImage]:
    """Return constant, extreme and noise images of several shapes."""
    rng = np.random.default_rng(0)
    full, small = (INPUT_SIZE, INPUT_SIZE, 3), (33, 57, 3)
    stripes = (np.indices((90, 1500)).sum(0) % 2 * 255).astype(np.uint8)
    return [
        np.zeros(full, np.uint8),
        np.full((300, 200, 3), 255, np.uint8),
        np.full(small, 128, np.uint8),
        rng.integers(0, 256, (511, 700, 3), dtype=np.uint8),
        stripes[..., None].repeat(3, 2),
    ]


GraphEngine = OnnxRuntimeEngine | OpenVinoEngine


def whole_engine(
    path: Path, precision: Precision, values: Iterable[str]
) -> GraphEngine:
    """Return an engine that computes every output of an exported graph."""
    engine = OnnxRuntimeEngine if path.suffix == ONNX_SUFFIX else OpenVinoEngine
    outputs = {name: name for name in WHOLE}
    return engine(path, outputs=outputs, values=values, precision=precision)


def compared(
    predictor: Predictor, engine: GraphEngine, normal: Sequence[ImageLike]
) -> Differences:
    """Return the largest differences of an export from a detector run by PyTorch.

    Up to `N_COMPARED` of the normal images are read, one by one.

    Raises:
        ImageError: If an image cannot be read.
        ExportMismatchError: If a difference is above the tolerance, or not a number.
    """
    artificial, real = artificial_images(), spread(normal, N_COMPARED)
    of_artificial = _largest(
        predictor, engine, artificial, ARTIFICIAL_TOLERANCE, "artificial"
    )
    of_real = _largest(predictor, engine, real, TOLERANCE, "real") if real else None
    return Differences(of_artificial, len(artificial), of_real, len(real))


def require_outputs(engine: GraphEngine, calibration: Calibration) -> None:
    """Reject a graph whose score or maps do not follow from its raw grids and values.

    The graph runs as in other programs: on a batch of two images, which are not
    256 x 256. The calibration is the part that it knows.

    Raises:
        ExportMismatchError: If the score or a map differs.
    """
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 130, 210, 3), dtype=np.uint8)
    found, given = engine.run(images)
    raw = {name: found[output] for name, output in RAW_OUTPUTS.items()}
    grids = normalize_maps(raw, calibration.scales)
    combined = combine_maps(grids)
    expected = {GRID_OUTPUTS[name]: grid for name, grid in grids.items()}
    expected[SCORE_OUTPUT], _ = calibration.scores(grids, given)
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
    """Return the largest difference relative to the largest expected value.

    Where that value is below 0.1, the high quantile of normal pixels, the difference is
    relative to 0.1.
    """
    scale = max(float(np.abs(expected).max()), HIGH_TARGET)
    return float(np.abs(expected - found).max()) / scale


def losses_on(
    predictor: Predictor, exported: Predictor, category: Path, max_loss: float
) -> Losses:
    """Return the changes by an export on the test images of a category.

    Raises:
        ExportMismatchError: If the export loses more than `max_loss` points of a
            metric.
    """
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
    # numpy's maximum, unlike Python's, is NaN if any difference is.
    largest = float(np.max([_difference(predictor, engine, i) for i in images]))
    if not largest <= tolerance:
        raise ExportMismatchError(
            f"an export in {engine.precision} must give PyTorch's maps within "
            f"{tolerance:g} of their largest value, on {kind} images it differs by "
            f"{largest:.3g}; use a higher precision, or the .ead file"
        )
    return largest


def _difference(predictor: Predictor, engine: GraphEngine, image: ImageLike) -> float:
    """Compare the whole graph, which resizes images of up to `MAX_SIDE` itself."""
    pixels = predictor.preparation.read(image)
    if max(pixels.shape) > MAX_SIDE:
        pixels = resize_image(pixels, INPUT_SIZE, INPUT_SIZE)
    expected = predictor.predict(pixels)
    found = engine.run(pixels[np.newaxis])
    differences = [
        relative_difference(grid, found.grids[GRID_OUTPUTS[name]][0])
        for name, grid in expected.grids.items()
    ]
    for name, points in expected.terms.items():
        given = predictor.calibration.terms[name].points(found.values[name][0])
        expected_points = np.array([points], np.float32)
        differences.append(relative_difference(expected_points, given))
    return float(np.max(differences))
