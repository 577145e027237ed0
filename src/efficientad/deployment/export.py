"""One ONNX graph from pixels to maps and score, refused unless it equals PyTorch.

The graph takes RGB images of any size, uint8, (batch, height, width, 3), and does what
the detector does: resizing as Pillow does it (the filter that averages when it shrinks,
both passes rounded), input normalization, networks, map normalization, placement.
Threshold and held-out normal scores travel as metadata.

For most sizes the resized pixels are Pillow's to the bit. For some it resizes rows
before columns, the graph never: rounding between them then moves pixels by 1 of 255.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientad.deployment.graph import detector_graph
from efficientad.deployment.onnx_runtime import (
    FORMAT_VERSION,
    METADATA_KEY,
    OnnxPredictor,
)
from efficientad.deployment.runtimes import ONNX_SUFFIX
from efficientad.errors import (
    ConfigError,
    MissingDependencyError,
    NotCalibratedError,
    StorageError,
)
from efficientad.images import INPUT_SIZE, RGBImage, as_rgb, find_images
from efficientad.storage import require_writable

if TYPE_CHECKING:
    from efficientad.method.detector import Detector

TOLERANCE = 1e-3
"""Largest difference of any grid value from PyTorch's, relative to the largest value of
that map, or to 0.1 (where the high quantile of normal pixels lies) if that is more."""

_N_IMAGES = 8


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export was compared on, and how far it is from PyTorch."""

    n_images: int
    largest_difference: float
    """As `TOLERANCE` measures it."""


def export(
    detector: "Detector", output: Path | str, *, images: Path | None = None
) -> ExportReport:
    """Write a detector as one ONNX file, after comparing it with PyTorch.

    Args:
        detector: Calibrated.
        output: The file to write, `part.onnx`.
        images: Folder of real images to compare on, beside constant, extreme and noise
            images; the first eight are taken.

    Raises:
        NotCalibratedError: If the detector has no calibration.
        ConfigError: If the name does not end in .onnx, or if the file would give other
            maps than PyTorch; then nothing is written.
        MissingDependencyError: If onnx or onnxruntime is not installed.
        StorageError: If the file cannot be written; what stood there stays.
    """
    target = Path(output)
    if target.suffix != ONNX_SUFFIX:
        raise ConfigError(
            f"an export is written as ONNX, got {target.name}; name it "
            f"{target.stem}{ONNX_SUFFIX}"
        )
    if detector.calibration is None:
        raise NotCalibratedError(
            "only a calibrated detector can be exported: call calibrate first"
        )
    require_writable(target)
    try:
        import onnx  # noqa: PLC0415 - only an export needs it
        import onnxruntime  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"an export needs {error.name}, which is not installed; "
            "run: pip install 'efficientad[export]'"
        ) from error
    model = detector_graph(detector)
    onnx.helper.set_model_props(
        model, {METADATA_KEY: json.dumps(metadata_of(detector), sort_keys=True)}
    )
    onnx.checker.check_model(model, full_check=True)
    partial = target.with_name(target.name + ".partial")
    try:
        partial.write_bytes(model.SerializeToString())
        report = _compared(detector, partial, _test_images(images))
        partial.replace(target)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return report


def metadata_of(detector: "Detector") -> dict[str, Any]:
    """Give what a runtime needs beside the graph, as JSON knows it."""
    assert detector.calibration is not None
    return {
        "format": FORMAT_VERSION,
        "size": detector.size,
        "input_size": INPUT_SIZE,
        # For who runs the graph without this package; here it follows from the rest.
        "threshold": detector.calibration.threshold,
        "calibration": asdict(detector.calibration),
        "provenance": detector.provenance,
    }


def _test_images(folder: Path | None) -> list[RGBImage]:
    """Constant, extreme and noise images of several shapes, and real ones."""
    rng = np.random.default_rng(0)
    full, small = (INPUT_SIZE, INPUT_SIZE, 3), (33, 57, 3)
    images = [
        np.zeros(full, np.uint8),
        np.full((300, 200, 3), 255, np.uint8),
        np.full(small, 128, np.uint8),
        rng.integers(0, 256, (511, 700, 3), dtype=np.uint8),
        (np.indices((90, 1500)).sum(0) % 2 * 255)
        .astype(np.uint8)[..., None]
        .repeat(3, 2),
    ]
    found = find_images(folder, recursive=True) if folder is not None else []
    return images + [as_rgb(path) for path in found[:_N_IMAGES]]


def _compared(
    detector: "Detector", path: Path, images: Sequence[RGBImage]
) -> ExportReport:
    exported = OnnxPredictor(path)
    preferred, detector.prefers_native = detector.prefers_native, False
    largest = 0.0
    try:
        for image in images:
            expected, found = detector.predict(image), exported.predict(image)
            for name in ("local_grid", "global_grid"):
                value, other = getattr(expected, name), getattr(found, name)
                scale = max(float(np.abs(value).max()), 0.1)
                difference = float(np.abs(value - other).max()) / scale
                # Not a number must be refused too.
                if not difference <= TOLERANCE:
                    raise ConfigError(
                        f"an export must give PyTorch's maps within {TOLERANCE:g}, "
                        f"its {name} differs by {difference:.3g}; predict with the "
                        ".ead file"
                    )
                largest = max(largest, difference)
    finally:
        detector.prefers_native = preferred
    return ExportReport(len(images), largest)
