"""One graph from pixels to maps and score, refused unless it equals PyTorch.

The graph takes RGB images of any size up to `graph_nodes.MAX_SIDE` a side, uint8,
(batch, height, width, 3), and does what the detector does: resizing as Pillow does it
(the filter that averages when it shrinks, both passes rounded), input normalization,
networks, map normalization, placement.
Threshold and held-out normal scores travel as metadata. It is written for ONNX Runtime
(`.onnx`) or for OpenVINO (`.xml` with `.bin`), from the same list of operators.
"""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from efficientad.datasets import open_category
from efficientad.engines.engine import Precision
from efficientad.engines.graph_outputs import require_utf8
from efficientad.engines.openvino import require_bf16
from efficientad.errors import ConfigError, MissingDependencyError
from efficientad.exports.calibration_images import calibration_images
from efficientad.exports.comparison import (
    N_COMPARED,
    PIXEL_METRICS,
    Losses,
    compared,
    losses_on,
    require_outputs,
    whole_engine,
)
from efficientad.exports.graph import detector_graph
from efficientad.exports.precisions import with_16_bit_weights
from efficientad.exports.quantization import QuantizationReport, quantized
from efficientad.images.rgb import INPUT_SIZE, as_rgb, resize_image
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.model_files import export_metadata as metadata
from efficientad.model_files.export_metadata import (
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
    Metadata,
)
from efficientad.model_files.files_together import files_together
from efficientad.storage import require_writable, storage_errors

if TYPE_CHECKING:
    import onnx

    from efficientad.method.detector import Detector

Format = Literal["onnx", "openvino"]
SUFFIX_OF: Final[dict[Format, str]] = {
    "onnx": ONNX_SUFFIX,
    "openvino": OPENVINO_SUFFIX,
}

DEFAULT_MAX_LOSS: Final = 0.2
"""Points of image AU-ROC, and of AU-PRO or AU-sPRO."""

_N_MEASURED: Final = 32
"""Images that 8 bits are measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export was compared on, and how far it is from PyTorch."""

    n_images: int
    """Artificial and real ones."""
    n_real_images: int
    """Normal images among them; 0 where none were given or found."""
    largest_difference: float
    """On real images where there are some, else on artificial ones; as
    `comparison.TOLERANCE` measures it."""
    largest_artificial_difference: float
    """As `comparison.ARTIFICIAL_TOLERANCE` measures it."""
    quantization: QuantizationReport | None
    """For precision int8."""
    verified: Losses | None
    """On a labelled category, where given: image_au_roc, and au_pro or au_spro where
    defects are annotated."""

    def lines(self) -> list[str]:
        """Say it for a person, a sentence a line."""
        n_artificial = self.n_images - self.n_real_images
        difference = f"{self.largest_artificial_difference:.2g} on {n_artificial}"
        difference += " artificial images"
        if self.n_real_images:
            on_real = f"{self.largest_difference:.2g} on {self.n_real_images} real"
            difference = f"{on_real} and {difference}"
        found = [f"largest difference from PyTorch {difference}"]
        if not self.n_real_images:
            found.append("compared on artificial images only; give --images FOLDER")
        if self.quantization is not None:
            found.append(str(self.quantization))
        return found if self.verified is None else [*found, *_told(self.verified)]


def export(
    predictor: Predictor,
    output: Path | str,
    *,
    precision: Precision = "fp32",
    images: Path | None = None,
    verify: Path | None = None,
    max_loss: float = DEFAULT_MAX_LOSS,
) -> ExportReport:
    """Write a detector as one graph, after comparing it with PyTorch.

    Args:
        predictor: Trained model with its networks.
        output: The file to write: `part.onnx`, or `part.xml` for OpenVINO, which comes
            with `part.bin`.
        precision: fp16 stores weights in 16 bits; bf16 also computes so, by OpenVINO
            on processors that can; int8 computes convolutions in 8 bits.
        images: Folder of normal images, not used for training if possible: compared
            on, and in int8 the ranges of values are measured on them. None: those of
            `verify`; without it those the detector was calibrated with, or else trained
            on, where they still are what they were.
        verify: Labelled category folder; the loss of accuracy is measured on its test
            images.
        max_loss: Largest loss there of image AU-ROC, and of AU-PRO or AU-sPRO, in
            points.

    Raises:
        ConfigError: If the predictor runs an export already, the name has no known
            ending, the precision cannot be had, int8 has no images to be measured on,
            or `max_loss` is no number.
        ExportMismatchError: If the file would give other maps than PyTorch, or lose
            more than `max_loss`; then nothing is written.
        DatasetError: If `images` has none, or only test images, or if `verify` is no
            category.
        UndefinedMetricError: If `verify` has no normal or no defective test images.
        ImageError: If one of them cannot be read.
        MissingDependencyError: If a package of the extra `export` is not installed.
        ModelFileError: If the name is no UTF-8.
        StorageError: If the file cannot be written; what stood there stays.
    """
    from efficientad.engines.pytorch import PyTorchEngine  # noqa: PLC0415 - needs torch

    target = Path(output)
    detector = _require_possible(predictor, target, precision)
    if verify is not None:
        _require_judgeable(verify, max_loss)
    normal = _normal_images(predictor, images or verify, precision)
    require_writable(target)
    if detector.device.type != "cpu":  # where products may be shortened, to TF32
        detector = copy.deepcopy(detector).to("cpu")
    model = detector_graph(detector, predictor.calibration.scales)
    exact = replace(predictor, engine=PyTorchEngine(detector))
    quantization = None
    if precision == "int8":
        small = [resize_image(as_rgb(i), INPUT_SIZE, INPUT_SIZE) for i in normal]
        model, quantization = quantized(model, small)
    elif precision != "fp32":
        model = with_16_bit_weights(model, has_bfloat16=precision == "bf16")
    with files_together(metadata.files_of(target)) as folder:
        staged = folder / target.name
        with storage_errors(target):
            _write(model, staged)
            metadata.write(staged, _metadata_of(predictor, precision))
        engine = whole_engine(staged, precision)
        differences = compared(exact, engine, normal)
        require_outputs(engine, predictor.calibration.scales)
        verified = None
        if verify is not None:
            verified = losses_on(predictor, load(staged), verify, max_loss)
    artificial, real = differences.artificial, differences.real
    return ExportReport(
        n_images=differences.n_artificial + differences.n_real,
        n_real_images=differences.n_real,
        largest_difference=artificial if real is None else real,
        largest_artificial_difference=artificial,
        quantization=quantization,
        verified=verified,
    )


def _told(verified: Losses) -> list[str]:
    points, n = verified.points, verified.n_other_decisions
    found = [f"{name} loses {v:.3f} points" for name, v in points.items()]
    if not any(name in points for name in PIXEL_METRICS):
        found.append("no loss of a pixel metric is known: no defect is annotated")
    calls = f"{n} of {verified.n_images} test images are called otherwise"
    if n:
        calls += "; efficientad threshold FILE --images FOLDER takes its own scores"
    return [*found, calls]


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
    predictor: Predictor, target: Path, precision: Precision
) -> "Detector":
    *others, last = get_args(Precision)
    if precision not in {*others, last}:
        raise ConfigError(
            f"an export is written in {', '.join(others)} or {last}, got {precision}; "
            "choose one of these"
        )
    require_utf8(target)
    if target.suffix not in SUFFIX_OF.values():
        raise ConfigError(
            f"an export is written as ONNX or for OpenVINO, got {target.name}; name it "
            f"{target.stem}{ONNX_SUFFIX} or {target.stem}{OPENVINO_SUFFIX}"
        )
    if predictor.detector is None:
        raise ConfigError(
            "an export is made of a detector with its networks, got an exported model; "
            "give the .ead file it was made of"
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
    return predictor.detector


def _require_judgeable(verify: Path, max_loss: float) -> None:
    """Find out before minutes are spent whether a loss can be measured."""
    from efficientad.evaluation.evaluate import (  # noqa: PLC0415 - heavy
        require_both_kinds,
    )

    if math.isnan(max_loss):
        raise ConfigError(
            f"max_loss must be a number of points, got {max_loss}; 0.2 is usual"
        )
    require_both_kinds(open_category(verify), otherwise="leave --verify out")


def _normal_images(
    predictor: Predictor, folder: Path | None, precision: Precision
) -> list[Path]:
    is_measured = precision == "int8"
    n = _N_MEASURED if is_measured else N_COMPARED
    found = calibration_images(folder, predictor.provenance, n)
    if is_measured and not found:
        raise ConfigError(
            "precision int8 needs normal images to measure ranges of values on, got "
            "none; give --images FOLDER, or --verify CATEGORY_FOLDER"
        )
    return found


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


def _metadata_of(predictor: Predictor, precision: Precision) -> Metadata:
    return Metadata(
        size=predictor.size,
        precision=precision,
        calibration=predictor.calibration,
        provenance=dict(predictor.provenance),
    )
