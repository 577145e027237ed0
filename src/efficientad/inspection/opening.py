"""Opening and writing of model files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from efficientad.cores import usable_cores
from efficientad.engines.engine import Engine
from efficientad.engines.graph_outputs import require_utf8
from efficientad.engines.names import DetectorEngine, Device, EngineChoice
from efficientad.engines.native import NativeEngine
from efficientad.engines.onnxruntime import OnnxRuntimeEngine
from efficientad.engines.openvino import OpenVinoEngine
from efficientad.engines.weights import Arrays, has_whole_panels
from efficientad.errors import ConfigError, ModelFileError, needs_extra
from efficientad.inspection.predictor import Predictor
from efficientad.kernels import layers
from efficientad.kernels.native import warn_once
from efficientad.method.sizes import ModelSize
from efficientad.model_files import export_metadata
from efficientad.model_files.detector_file import (
    DetectorFile,
    read_detector,
    write_detector,
)
from efficientad.model_files.export_metadata import (
    NATIVE_SUFFIX,
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
)
from efficientad.settings import Parallel, checks_arguments

if TYPE_CHECKING:
    from efficientad.method.detector import Detector

DETECTOR_SUFFIX: Final = ".ead"
EXPORT_SUFFIXES: Final = (ONNX_SUFFIX, OPENVINO_SUFFIX)
_SUFFIXES: Final = (DETECTOR_SUFFIX, *EXPORT_SUFFIXES)


@checks_arguments
def load(
    path: Path | str,
    *,
    device: Device = "auto",
    engine: EngineChoice = "auto",
    n_threads: Parallel | None = None,
    n_streams: Parallel = 1,
) -> Predictor:
    """Open a model file with the engine it is made for.

    Args:
        path: The model file: .ead, or an exported .onnx or .xml.
        device: Device of the networks. `auto`: a CUDA device for a .ead file, if there
            is one, and the CPU for an export. `cuda` runs an .onnx file by
            onnxruntime-gpu.
        engine: Engine that computes the maps. For a .ead file: `native`, this package's
            layers, on the CPU; `native_bf16`, these with the 1 x 1 convolutions of the
            medium size in bf16, where the processor has such products; or `pytorch`.
            For an export: `onnxruntime` or `openvino`. `auto`: native on the CPU,
            PyTorch elsewhere; for an export, the engine it is made for. If the native
            layers cannot be built, PyTorch is used and a warning says so.
        n_threads: Threads of one prediction, from 1 to 1024; no effect with PyTorch.
            None: the cores, shared by the streams.
        n_streams: Predictions at the same time that the engine is prepared for, from 1
            to 1024.

    Raises:
        ConfigError: If device, engine and file exclude each other, or an argument has
            another type or range.
        ModelFileError: If the file cannot be used.
        MissingDependencyError: If the engine is not installed.
    """
    path = Path(path)
    require_model_file(path)
    if path.suffix in EXPORT_SUFFIXES:
        return _exported(path, device, engine, n_threads, n_streams)
    if engine == "onnxruntime" or engine == "openvino":  # noqa: PLR1714 - narrows the type
        raise ConfigError(
            f"engine {engine} runs exported files, got {path}; make one with "
            "`efficientad export`, or use engine auto, native or pytorch"
        )
    return _detector(path, device, engine, _of_one(n_threads, n_streams))


@checks_arguments
def save(predictor: Predictor, path: Path | str) -> None:
    """Write a trained predictor to one .ead file, atomically.

    Raises:
        ConfigError: If the predictor runs an export, which is a file already, or the
            name is that of an export.
        StorageError: If the file cannot be written; the previous file stays.
    """
    path = Path(path)
    require_detector_name(path)
    if predictor.weights is None or predictor.size is None:
        raise ConfigError(
            "only a predictor with its networks can be saved, got one of an exported "
            "file; copy that file"
        )
    file = DetectorFile(
        predictor.weights,
        predictor.size,
        predictor.calibration,
        dict(predictor.provenance),
        predictor.preparation,
    )
    write_detector(file, path)


def detector_engine(
    detector: "Detector",
    engine: DetectorEngine = "auto",
    *,
    n_threads: int | None = None,
) -> Engine:
    """Return an engine that runs a detector's networks, by its name as for `load`.

    If the native layers do not work here, a warning says so and PyTorch is used. By
    default they take all usable cores, or OMP_NUM_THREADS.
    """
    arrays = None if engine == "pytorch" else native_arrays(detector)
    if arrays is not None:
        return _native_engine(arrays, detector.size, engine, n_threads)
    from efficientad.engines.pytorch import PyTorchEngine  # noqa: PLC0415 - needs torch

    return PyTorchEngine(detector)


def native_arrays(detector: "Detector") -> Arrays | None:
    """Return a detector's arrays for the native engine; None if it cannot run."""
    is_single = detector.teacher_mean.element_size() == 4  # noqa: PLR2004 - bytes
    if detector.device.type != "cpu" or not is_single:
        return None
    from efficientad.model_files.tensors import as_arrays  # noqa: PLC0415 - torch

    arrays = as_arrays(detector.state_dict())
    return arrays if _native_layers_take(arrays) else None


def _native_layers_take(weights: Arrays) -> bool:
    """Return whether the native layers work here and take these weights."""
    if not layers.is_available():
        return False
    if not has_whole_panels(weights):
        warn_once("they take other numbers of channels than this detector has")
        return False
    return True


def _native_engine(
    weights: Arrays, size: ModelSize, engine: DetectorEngine, n_threads: int | None
) -> NativeEngine:
    bf16 = engine == "native_bf16"
    if bf16 and size == "medium" and not layers.has_bf16():
        warn_once("they do not work here", "products in bf16", "single precision")
        bf16 = False
    return NativeEngine(weights, size, bf16=bf16, n_threads=n_threads)


def require_detector_name(path: Path) -> None:
    """Raise `ConfigError` if a detector would get the name of an export."""
    if path.suffix in (*EXPORT_SUFFIXES, NATIVE_SUFFIX):
        raise ConfigError(
            f"a detector file ends in {DETECTOR_SUFFIX}, got {path.name}; name it "
            f"{path.stem}{DETECTOR_SUFFIX}, and make {path.name} of it by `efficientad "
            "export`"
        )


def require_model_file(path: Path) -> None:
    """Raise `ModelFileError` if there is no file, or its name is not a model's."""
    if not path.is_file():
        raise ModelFileError(
            f"no model file at {path}: give a {DETECTOR_SUFFIX} file made by "
            "`efficientad train`, or one made by `efficientad export`"
        )
    suffix = path.suffix
    if suffix == NATIVE_SUFFIX:
        raise ModelFileError(
            f"{path} is for the C interface, which Python does not read; give the "
            f"{DETECTOR_SUFFIX} file it was made of"
        )
    if suffix not in _SUFFIXES and suffix.lower() in _SUFFIXES:
        raise ModelFileError(
            f"a model file ends in {', '.join(_SUFFIXES)}, got {path.name}; rename it "
            f"to {path.stem}{suffix.lower()}"
        )
    model = path.with_suffix(OPENVINO_SUFFIX)
    if suffix.lower() == ".bin" and model.is_file():
        raise ModelFileError(
            f"{path} holds the weights of {model.name}; give that file, and leave this "
            "one beside it"
        )


def require_detector_file(path: Path) -> None:
    """Raise `ModelFileError` if a file is no model, or an export already."""
    require_model_file(path)
    if path.suffix in EXPORT_SUFFIXES:
        raise ModelFileError(
            f"a {DETECTOR_SUFFIX} file was needed, {path} is an export already; give "
            f"the {DETECTOR_SUFFIX} file it was made of"
        )


def _detector(
    path: Path, device: Device, engine: DetectorEngine, n_threads: int | None
) -> Predictor:
    if engine in {"native", "native_bf16"} and device == "cuda":
        raise ConfigError(
            f"engine {engine} runs on the CPU, device cuda was asked for; "
            "use --device cpu, or --engine pytorch"
        )
    try:
        file = read_detector(path)
    except ModelFileError as error:
        if path.suffix == DETECTOR_SUFFIX:
            raise
        raise ModelFileError(
            f"a model file ends in {', '.join(_SUFFIXES)}, got {path}; give one of "
            "these"
        ) from error
    if _chooses_native(device, engine) and _native_layers_take(file.weights):
        chosen: Engine = _native_engine(file.weights, file.size, engine, n_threads)
    else:
        with needs_extra(f"{path} without native layers", "train"):
            from efficientad.engines import pytorch  # noqa: PLC0415 - needs torch
            from efficientad.method.detector import Detector  # noqa: PLC0415
        networks = Detector.from_arrays(file.weights, file.size)
        chosen = pytorch.PyTorchEngine(networks.to(pytorch.choose_device(device)))
    return Predictor(
        engine=chosen,
        calibration=file.calibration,
        provenance=file.provenance,
        size=file.size,
        preparation=file.preparation,
        weights=file.weights,
    )


def _chooses_native(device: Device, engine: DetectorEngine) -> bool:
    """Return whether the native layers shall run; imports torch only to find a GPU."""
    if engine == "pytorch" or device == "cuda":
        return False
    if engine != "auto" or device == "cpu" or not _may_have_gpu():
        return True
    try:
        from efficientad.engines.pytorch import choose_device  # noqa: PLC0415
    except ModuleNotFoundError:
        return True
    return choose_device("auto").type == "cpu"


def _may_have_gpu() -> bool:
    """Return whether CUDA is possible here: a look that takes no time."""
    return sys.platform != "linux" or any(
        place.exists() for place in map(Path, ("/dev/nvidiactl", "/dev/dxg"))
    )


def _exported(
    path: Path,
    device: Device,
    engine: EngineChoice,
    n_threads: int | None,
    n_streams: int,
) -> Predictor:
    is_onnx = path.suffix == ONNX_SUFFIX
    if engine == "auto":
        engine = "onnxruntime" if is_onnx else "openvino"
    if engine not in {"onnxruntime", "openvino"}:
        raise ConfigError(
            f"engine {engine} runs {DETECTOR_SUFFIX} files, got {path}; use engine "
            "auto, onnxruntime or openvino"
        )
    if not is_onnx and engine != "openvino":
        raise ConfigError(
            f"{path} can be run by OpenVINO only, {engine} was asked for; export an "
            f"{ONNX_SUFFIX} file"
        )
    if device == "cuda" and engine == "openvino":
        raise ConfigError(
            "engine openvino runs on the CPU, device cuda was asked for; leave "
            f"--device at auto, or export an {ONNX_SUFFIX} file"
        )
    require_utf8(path)
    metadata = export_metadata.read(path)
    precision = metadata.precision
    values = tuple(metadata.calibration.terms)
    chosen: Engine
    if engine == "onnxruntime":
        n_threads = _of_one(n_threads, n_streams)
        chosen = OnnxRuntimeEngine(
            path,
            values=values,
            precision=precision,
            device="cuda" if device == "cuda" else "cpu",
            n_threads=n_threads,
        )
    else:
        chosen = OpenVinoEngine(
            path,
            values=values,
            precision=precision,
            n_threads=None if n_threads is None else n_threads * n_streams,
            n_streams=n_streams,
        )
    return Predictor(
        engine=chosen,
        calibration=metadata.calibration,
        provenance=metadata.provenance,
        size=metadata.size,
        preparation=metadata.preparation,
    )


def _of_one(n_threads: int | None, n_streams: int) -> int | None:
    """Return the threads of one prediction, so that all streams share the cores."""
    if n_threads is None and n_streams > 1:
        return max(1, usable_cores() // n_streams)
    return n_threads
