"""An export: one graph from pixels to maps and score, refused if it differs.

The graph takes RGB images, uint8, (batch, height, width, 3), of up to
`MAX_SIDE` pixels a side. It resizes them as Pillow does, and computes input
normalization, networks, map normalization and placement. Threshold and scores of normal
images are metadata of the file. The same operators are written for ONNX Runtime
(`.onnx`) or for OpenVINO (`.xml` with `.bin`).

For the C interface of the native layers the file is no graph (`native_file`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from efficientad.calibration.normal_images import read_normal_images
from efficientad.datasets import open_category
from efficientad.decisions.rule import ANYWHERE
from efficientad.engines.engine import Precision
from efficientad.engines.graph_outputs import require_utf8
from efficientad.engines.openvino import require_bf16
from efficientad.engines.weights import Arrays
from efficientad.errors import ConfigError, needs_extra
from efficientad.evaluation.evaluate import require_both_kinds
from efficientad.exports.calibration_images import calibration_images
from efficientad.exports.comparison import (
    N_COMPARED,
    Differences,
    Losses,
    compared,
    losses_on,
    require_outputs,
    whole_engine,
)
from efficientad.exports.native_file import write_native
from efficientad.images.preparation import Preparation
from efficientad.inspection.opening import EXPORT_SUFFIXES, load
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.tiling import network_views
from efficientad.method.sizes import ModelSize
from efficientad.model_files import export_metadata as metadata
from efficientad.model_files.export_metadata import (
    NATIVE_SUFFIX,
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
    Metadata,
)
from efficientad.settings import Range, checks_arguments
from efficientad.storage import files_together, require_writable, storage_errors

DEFAULT_MAX_LOSS: Final = 0.2
"""Points of image AU-ROC, and of AU-PRO or AU-sPRO."""

N_CALIBRATED: Final = 32
"""Number of normal images that 8 bits are calibrated on."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Results of the checks of an export."""

    differences: Differences
    """On no images for the C interface, which runs the same layers."""
    losses: Losses | None
    """None without a labelled category."""

    def lines(self) -> list[str]:
        """Return sentences for a person."""
        is_compared = self.differences.n_artificial > 0
        return [
            *(self.differences.lines() if is_compared else []),
            *(self.losses.lines() if self.losses is not None else []),
        ]


@checks_arguments
def export(
    predictor: Predictor,
    output: Path | str,
    *,
    precision: Precision = "fp32",
    images: Path | None = None,
    verify: Path | None = None,
    max_loss: Annotated[float, Range(0, 100)] = DEFAULT_MAX_LOSS,
) -> ExportReport:
    """Write a detector as one graph, after comparing it with PyTorch.

    Args:
        predictor: Trained model with its networks.
        output: File to write: `part.onnx`; `part.xml` for OpenVINO, which comes with
            `part.bin`; or `part.native` for the C interface, which has neither other
            precisions nor images to compare.
        precision: fp16 stores weights in 16 bits. bf16 also computes in 16 bits, by
            OpenVINO on processors that can. int8 computes convolutions in 8 bits.
        images: Folder of normal images, not used for training if possible. The export
            is compared on them, and int8 is calibrated on them. None: the images of
            `verify` or, without it, those of the detector's calibration or training, if
            they are unchanged.
        verify: Labelled category folder. The loss of accuracy is measured on its test
            images.
        max_loss: Largest loss on `verify` of image AU-ROC, and of AU-PRO or AU-sPRO, in
            points, from 0 to 100.

    Raises:
        ConfigError: If the predictor runs an export already, the name has no known
            ending, the precision is not available, int8 has no images for calibration,
            `max_loss` is no number, or the C interface does not take the detector.
        ExportMismatchError: If the maps of the file differ from PyTorch's, or it loses
            more than `max_loss`; then nothing is written.
        DatasetError: If `images` has no normal images, or `verify` is no category.
        UndefinedMetricError: If `verify` has no normal or no defective test images.
        ImageError: If an image cannot be read.
        MissingDependencyError: If a package of the extra `export` is not installed.
        ModelFileError: If the name is no UTF-8.
        StorageError: If the file cannot be written; an earlier file stays.
    """
    target = Path(output)
    if target.suffix == NATIVE_SUFFIX:
        if precision != "fp32" or images is not None or verify is not None:
            raise ConfigError(
                f"{target.name} is computed as the .ead file is, in fp32, so that "
                "nothing is measured; leave precision, images and verify out"
            )
        write_native(predictor, *_networks_of(predictor), target)
        return ExportReport(Differences(0.0, 0, None, 0), None)
    from efficientad.engines.pytorch import PyTorchEngine  # noqa: PLC0415 - needs torch
    from efficientad.method.detector import Detector  # noqa: PLC0415

    weights, size = _require_possible(predictor, target, precision)
    from efficientad.exports.graph import detector_graph, write  # noqa: PLC0415 - onnx
    from efficientad.exports.precisions import with_16_bit_weights  # noqa: PLC0415
    from efficientad.exports.quantization import quantized  # noqa: PLC0415

    if verify is not None:  # before minutes are spent on the export
        require_both_kinds(open_category(verify), otherwise="leave --verify out")
    n = N_CALIBRATED if precision == "int8" else N_COMPARED
    levels = predictor.preparation.levels
    normal = calibration_images(images or verify, predictor.provenance, n, levels)
    if precision == "int8" and not normal:
        raise ConfigError(
            "precision int8 needs normal images to measure the ranges of activations, "
            "got none; give --images FOLDER, or --verify CATEGORY_FOLDER"
        )
    require_writable(target)
    calibration = predictor.calibration
    model = detector_graph(weights, size, calibration.scales, calibration.terms)
    if precision == "int8":
        read = read_normal_images(normal, predictor.preparation)
        model = quantized(model, list(network_views(read.pixels)))
    elif precision != "fp32":
        model = with_16_bit_weights(model, has_bfloat16=precision == "bf16")
    # The graph itself knows no rule, no tiles, no places and no alignment.
    exact = replace(
        predictor,
        engine=PyTorchEngine(Detector.from_arrays(weights, size)),
        calibration=replace(
            calibration,
            rule=ANYWHERE,
            scales={
                name: replace(scale, places=None)
                for name, scale in calibration.scales.items()
            },
        ),
        preparation=Preparation(levels=predictor.preparation.levels),
    )
    described = Metadata(
        size=size,
        precision=precision,
        calibration=calibration,
        provenance=dict(predictor.provenance),
        preparation=predictor.preparation,
    )
    losses = None
    with files_together(metadata.files_of(target)) as folder:
        staged = folder / target.name
        with storage_errors(target):
            write(model, staged)
            metadata.write(staged, described)
        engine = whole_engine(staged, precision, calibration.terms)
        differences = compared(exact, engine, normal)
        require_outputs(engine, exact.calibration)
        if verify is not None:
            losses = losses_on(predictor, load(staged), verify, max_loss)
    return ExportReport(differences, losses)


def _require_possible(
    predictor: Predictor, target: Path, precision: Precision
) -> tuple[Arrays, ModelSize]:
    require_utf8(target)
    if target.suffix not in EXPORT_SUFFIXES:
        raise ConfigError(
            f"an export is written as ONNX, for OpenVINO or for C, got {target.name}; "
            f"name it {target.stem}{ONNX_SUFFIX}, {target.stem}{OPENVINO_SUFFIX} or "
            f"{target.stem}{NATIVE_SUFFIX}"
        )
    networks = _networks_of(predictor)
    with needs_extra("an export", "export"):
        import onnx  # noqa: F401, PLC0415 - only an export needs it
        import onnxruntime  # noqa: F401, PLC0415

        if target.suffix == OPENVINO_SUFFIX:
            import openvino  # noqa: PLC0415
    if precision == "bf16":
        if target.suffix == ONNX_SUFFIX:
            raise ConfigError(
                "precision bf16 needs OpenVINO, ONNX Runtime has no bf16 on a CPU; "
                f"name the output {target.stem}{OPENVINO_SUFFIX}, or use fp16"
            )
        core = openvino.Core()
        require_bf16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    return networks


def _networks_of(predictor: Predictor) -> tuple[Arrays, ModelSize]:
    if predictor.weights is None or predictor.size is None:
        raise ConfigError(
            "an export is made of a detector with its networks, got an exported model; "
            "give the .ead file it was made of"
        )
    return predictor.weights, predictor.size
