"""One graph from pixels to maps and score, refused unless it equals PyTorch.

The graph takes RGB images of any size, uint8, (batch, height, width, 3), and does what
the detector does: resizing as Pillow does it (the filter that averages when it shrinks,
both passes rounded), input normalization, networks, map normalization, placement.
Threshold and held-out normal scores travel as metadata. It is written for ONNX Runtime
(`.onnx`) or for OpenVINO (`.xml` with `.bin`), from the same list of operators.

What is compared are both normalized maps on the grid of descriptors; everything behind
them is linear interpolation and a maximum.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from efficientad.datasets import normal_image_paths
from efficientad.deployment import metadata
from efficientad.deployment.engines import require_bf16
from efficientad.deployment.exported import ExportedPredictor
from efficientad.deployment.graph import detector_graph
from efficientad.deployment.metadata import (
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
    Metadata,
    Precision,
)
from efficientad.deployment.precisions import with_16_bit_weights
from efficientad.deployment.quantization import QuantizationReport, quantized
from efficientad.errors import (
    ConfigError,
    ExportMismatchError,
    MissingDependencyError,
    NotCalibratedError,
    StorageError,
)
from efficientad.images import INPUT_SIZE, RGBImage, as_rgb
from efficientad.storage import require_writable

if TYPE_CHECKING:
    import onnx

    from efficientad.method.detector import Detector

Format = Literal["onnx", "openvino"]
SUFFIX_OF: Final[dict[Format, str]] = {
    "onnx": ONNX_SUFFIX,
    "openvino": OPENVINO_SUFFIX,
}

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

DEFAULT_MAX_LOSS: Final = 0.2
"""Points of image AU-ROC and of AU-PRO."""

_N_CALIBRATION, _N_COMPARED = 32, 8
_LOSSES = ("image_au_roc", "au_pro")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export was compared on, and how far it is from PyTorch."""

    n_images: int
    """Artificial and real ones."""
    largest_difference: float
    """On real images where there are some, else on artificial ones; as `TOLERANCE`
    measures it."""
    largest_artificial_difference: float
    """As `ARTIFICIAL_TOLERANCE` measures it."""
    quantization: QuantizationReport | None
    """For precision int8."""
    losses: Mapping[str, float]
    """Points lost of image_au_roc and au_pro on a labelled category, where given;
    negative where the export is better."""

    def lines(self) -> list[str]:
        """Say it for a person, a sentence a line."""
        difference = f"{self.largest_difference:.2g} on {self.n_images} images"
        found = [f"largest difference from PyTorch {difference}"]
        if self.quantization is not None:
            found.append(str(self.quantization))
        found += [f"{name} loses {v:.3f} points" for name, v in self.losses.items()]
        return found


def export(
    detector: "Detector",
    output: Path | str,
    *,
    precision: Precision = "fp32",
    images: Path | None = None,
    verify: Path | None = None,
    max_loss: float = DEFAULT_MAX_LOSS,
) -> ExportReport:
    """Write a detector as one graph, after comparing it with PyTorch.

    Args:
        detector: Calibrated.
        output: The file to write: `part.onnx`, or `part.xml` for OpenVINO, which comes
            with `part.bin`.
        precision: fp16 stores weights in 16 bits; bf16 also computes so, by OpenVINO
            on processors that can; int8 computes convolutions in 8 bits.
        images: Folder of normal images, not used for training if possible: compared
            on, and in int8 the ranges of values are measured on them. None: those of
            `verify`.
        verify: Labelled category folder; the loss of accuracy is measured on its test
            images.
        max_loss: Largest loss of image AU-ROC and of AU-PRO there, in points.

    Raises:
        NotCalibratedError: If the detector has no calibration.
        ConfigError: If the name has no known ending, or the precision cannot be had.
        ExportMismatchError: If the file would give other maps than PyTorch, or lose
            more than `max_loss`; then nothing is written.
        DatasetError: If `images` has none, or only test images.
        MissingDependencyError: If a package of the extra `export` is not installed.
        StorageError: If the file cannot be written; what stood there stays.
    """
    target = Path(output)
    _require_possible(detector, target, precision, images or verify)
    require_writable(target)
    normal = _normal_images(images or verify)
    model = detector_graph(detector)
    quantization = None
    if precision == "int8":
        model, quantization = quantized(model, normal)
    elif precision != "fp32":
        model = with_16_bit_weights(model, has_bfloat16=precision == "bf16")
    try:
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=".export-"
        ) as folder:
            staged = Path(folder) / target.name
            _write(model, staged)
            metadata.write(staged, _metadata_of(detector, precision))
            exported = ExportedPredictor(staged)
            differences = _compared(detector, exported, normal, precision)
            losses = _losses(detector, exported, verify, max_loss)
            if target.suffix == OPENVINO_SUFFIX:
                metadata.weights_of(staged).replace(metadata.weights_of(target))
            staged.replace(target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write {target}: {error}") from error
    return ExportReport(
        n_images=len(_artificial_images()) + len(normal[:_N_COMPARED]),
        largest_difference=differences[-1],
        largest_artificial_difference=differences[0],
        quantization=quantization,
        losses=losses,
    )


def require_format(output: Path, wanted: Format | None) -> None:
    """Refuse a name whose ending says another format.

    Raises:
        ConfigError: If it does.
    """
    if wanted is not None and output.suffix != SUFFIX_OF[wanted]:
        raise ConfigError(
            f"format {wanted} is written with the ending {SUFFIX_OF[wanted]}, got "
            f"{output.name}; name it {output.stem}{SUFFIX_OF[wanted]}"
        )


def _require_possible(
    detector: "Detector", target: Path, precision: Precision, images: Path | None
) -> None:
    if target.suffix not in SUFFIX_OF.values():
        raise ConfigError(
            f"an export is written as ONNX or for OpenVINO, got {target.name}; name it "
            f"{target.stem}{ONNX_SUFFIX} or {target.stem}{OPENVINO_SUFFIX}"
        )
    if detector.calibration is None:
        raise NotCalibratedError(
            "only a calibrated detector can be exported: call calibrate first"
        )
    if precision == "int8" and images is None:
        raise ConfigError(
            "precision int8 needs normal images to measure ranges of values on, got "
            "none; give --images FOLDER, or --verify CATEGORY_FOLDER"
        )
    try:
        import onnx  # noqa: F401, PLC0415 - only an export needs it
        import onnxruntime  # noqa: F401, PLC0415

        if target.suffix == OPENVINO_SUFFIX:
            import openvino  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"an export needs {error.name}, which is not installed; "
            "run: pip install 'efficientad[export]'"
        ) from error
    if precision == "bf16":
        if target.suffix == ONNX_SUFFIX:
            raise ConfigError(
                "precision bf16 needs OpenVINO, ONNX Runtime has none such on a CPU; "
                f"name the output {target.stem}{OPENVINO_SUFFIX}, or use fp16"
            )
        core = openvino.Core()
        require_bf16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _write(model: "onnx.ModelProto", path: Path) -> None:
    import onnx  # noqa: PLC0415 - only an export needs it

    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    if path.suffix == ONNX_SUFFIX:
        path.write_bytes(content)
        return
    import openvino  # noqa: PLC0415

    converted = openvino.Core().read_model(content)
    # A place for the metadata.
    converted.set_rt_info("", metadata.KEY)
    openvino.save_model(converted, path, compress_to_fp16=False)


def _metadata_of(detector: "Detector", precision: Precision) -> Metadata:
    assert detector.calibration is not None
    return Metadata(
        size=detector.size,
        precision=precision,
        calibration=detector.calibration,
        provenance=detector.provenance,
    )


def _normal_images(folder: Path | None) -> list[RGBImage]:
    """Images spread evenly over a folder or a category, never test images."""
    if folder is None:
        return []
    training, held_out = normal_image_paths(folder, min_images=1)
    found = held_out or training
    n = min(len(found), _N_CALIBRATION)
    return [as_rgb(found[index * len(found) // n]) for index in range(n)]


def _artificial_images() -> list[RGBImage]:
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


def _compared(
    detector: "Detector",
    exported: ExportedPredictor,
    normal: Sequence[RGBImage],
    precision: Precision,
) -> list[float]:
    """The largest differences on artificial and, where given, on real images."""
    kinds: list[tuple[str, Sequence[RGBImage], float]] = [
        ("artificial", _artificial_images(), ARTIFICIAL_TOLERANCE[precision])
    ]
    if normal:
        kinds.append(("given", normal[:_N_COMPARED], TOLERANCE[precision]))
    chosen, detector.runtime = detector.runtime, "pytorch"
    found = []
    try:
        for kind, images, tolerance in kinds:
            largest = max(_difference(detector, exported, image) for image in images)
            # Not a number must be refused too.
            if not largest <= tolerance:
                raise ExportMismatchError(
                    f"an export in {precision} must give PyTorch's maps within "
                    f"{tolerance:g} of their largest value, on {kind} images it "
                    f"differs by {largest:.3g}; use a higher precision, or the .ead "
                    "file"
                )
            found.append(largest)
    finally:
        detector.runtime = chosen
    return found


def _difference(
    detector: "Detector", exported: ExportedPredictor, image: RGBImage
) -> float:
    """Compare as the graph is, which resizes images itself."""
    expected, found = detector.predict(image), exported.judge(image[np.newaxis])
    differences = []
    for value, other in (
        (expected.local_grid, found.local_grids[0]),
        (expected.global_grid, found.global_grids[0]),
    ):
        scale = max(float(np.abs(value).max()), 0.1)
        differences.append(float(np.abs(value - other).max()) / scale)
    return float(np.max(differences))


def _losses(
    detector: "Detector",
    exported: ExportedPredictor,
    category: Path | None,
    max_loss: float,
) -> dict[str, float]:
    if category is None:
        return {}
    from efficientad.judgement.evaluation import evaluate  # noqa: PLC0415 - heavy

    before = evaluate(detector, category).metrics
    after = evaluate(exported, category).metrics
    losses = {
        name: 100 * (before[name] - after[name]) for name in _LOSSES if name in before
    }
    for name, loss in losses.items():
        if not loss <= max_loss:
            raise ExportMismatchError(
                f"an export may lose {max_loss:g} points of {name} on {category}, it "
                f"loses {loss:.3g}; use a higher precision, give more --images, or "
                "raise --max-loss"
            )
    return losses
