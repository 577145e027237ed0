"""TensorRT, asked for score and grids of a batch of images. No torch.

Written against the documented API of TensorRT 10 and 11, whose networks are strongly
typed: what a file says is what is computed. Hence a file in fp16 has its networks cast
to half precision before TensorRT reads it. Files in int8 have unsigned 8 bits as CPUs
want them, and are refused.

An engine takes up to `MAX_BATCH` images of 256 x 256, so the graph's own resizing is
left out; it is built for the first that come, which takes up to a minute.
"""

import math
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.exported import GRID_OUTPUTS, INPUT, SCORE_OUTPUT, Judged
from efficientad.errors import (
    ConfigError,
    ImageError,
    MissingDependencyError,
    ModelFileError,
)
from efficientad.exports.graph_nodes import without_resizing
from efficientad.exports.precisions import with_fp16_networks
from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.placement import GRID_CELLS
from efficientad.model_files.export_metadata import Precision

MAX_BATCH: Final = 16
_IMAGE: Final = (INPUT_SIZE, INPUT_SIZE, 3)


class TensorRtEngine:
    """TensorRT on the first CUDA device.

    Args:
        path: An .onnx file.
        precision: Of the file.

    Raises:
        ModelFileError: If the engine cannot read the file.
        ConfigError: If there is no CUDA device, or the file is in int8.
        MissingDependencyError: If a package of the extra `tensorrt` is not installed.
    """

    def __init__(self, path: Path, *, precision: Precision = "fp32") -> None:
        if precision == "int8":
            raise ConfigError(
                f"{path} is in int8 as CPUs have it, TensorRT needs other scales; "
                "export fp16 for a GPU"
            )
        try:
            import onnx  # noqa: PLC0415 - only this engine needs them
            import tensorrt  # noqa: PLC0415
            from cuda.bindings import runtime as cuda  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"{path} on a GPU needs {error.name}, which is not installed; "
                "run: pip install 'efficientad[tensorrt]'"
            ) from error
        self._tensorrt, self._cuda, self._path = tensorrt, cuda, path
        status, n_devices = cuda.cudaGetDeviceCount()
        if status != cuda.cudaError_t.cudaSuccess or n_devices == 0:
            raise ConfigError(
                "TensorRT needs a CUDA device, found none; leave --device and "
                "--runtime at auto"
            )
        model = without_resizing(onnx.load(path))
        if precision == "fp16":
            model = with_fp16_networks(model)
        self._content: bytes = model.SerializeToString()
        self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        self._session: _Session | None = None
        # A session has one set of buffers; predictions take turns.
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8]) -> Judged:
        """Judge images, (batch, 256, 256, 3).

        Raises:
            ImageError: If they are of another size.
            ModelFileError: If TensorRT cannot build an engine of the file.
            ConfigError: If the device has too little memory.
        """
        if images.shape[1:] != _IMAGE:
            raise ImageError(
                f"TensorRT takes images (batch, {INPUT_SIZE}, {INPUT_SIZE}, 3), got "
                f"{images.shape}; resize them, or call predict, which does"
            )
        with self._lock:
            if self._session is None:
                self._session = _Session(self._cuda, self._built())
            parts = [
                self._session.run(images[start : start + MAX_BATCH])
                for start in range(0, len(images), MAX_BATCH)
            ]
        return Judged(*(np.concatenate(same) for same in zip(*parts, strict=True)))

    def _built(self) -> Any:
        trt = self._tensorrt
        builder = trt.Builder(self._logger)
        network = builder.create_network(_flags(trt))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(self._content):
            raise ModelFileError(
                f"{self._path} is not a model TensorRT can read "
                f"({parser.get_error(0)}); export it again"
            )
        judged = {SCORE_OUTPUT, *GRID_OUTPUTS}
        outputs = [network.get_output(i) for i in range(network.num_outputs)]
        for tensor in outputs:
            if tensor.name not in judged:
                network.unmark_output(tensor)
        config = builder.create_builder_config()
        # Products in single precision, not in TensorFloat-32's ten bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        one, most = ((n, *_IMAGE) for n in (1, MAX_BATCH))
        profile.set_shape(INPUT, one, one, most)
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ModelFileError(
                f"TensorRT cannot build {self._path} (see its message); export "
                "another precision"
            )
        engine = trt.Runtime(self._logger).deserialize_cuda_engine(plan)
        return _made(engine, "engine")


class _Session:
    """An engine with its buffers on the device."""

    def __init__(self, cuda: Any, engine: Any) -> None:
        self._cuda, self._engine = cuda, engine
        self._addresses: dict[str, int] = {}
        self._context = _made(engine.create_execution_context(), "context")
        self._stream = self._checked(cuda.cudaStreamCreate())
        self._outputs = {
            SCORE_OUTPUT: np.empty((MAX_BATCH,), np.float32),
            **{
                name: np.empty((MAX_BATCH, GRID_CELLS, GRID_CELLS), np.float32)
                for name in GRID_OUTPUTS
            },
        }
        sizes = {INPUT: MAX_BATCH * math.prod(_IMAGE)}
        sizes |= {name: array.nbytes for name, array in self._outputs.items()}
        for name, n_bytes in sizes.items():  # one by one: each is freed if one fails
            self._addresses[name] = address = self._checked(cuda.cudaMalloc(n_bytes))
            self._context.set_tensor_address(name, address)

    def run(self, images: NDArray[np.uint8]) -> Judged:
        """Judge up to `MAX_BATCH` images."""
        cuda, n = self._cuda, len(images)
        images = np.ascontiguousarray(images)
        self._context.set_input_shape(INPUT, images.shape)
        kind = cuda.cudaMemcpyKind
        to_device, to_host = kind.cudaMemcpyHostToDevice, kind.cudaMemcpyDeviceToHost
        self._copy(self._addresses[INPUT], images.ctypes.data, images.nbytes, to_device)
        if not self._context.execute_async_v3(int(self._stream)):
            raise ModelFileError(
                "TensorRT could not run the model (see its message); run it with "
                "--device cpu"
            )
        found = {name: array[:n].copy() for name, array in self._outputs.items()}
        for name, array in found.items():
            host = array.ctypes.data
            self._copy(host, self._addresses[name], array.nbytes, to_host)
        self._checked(cuda.cudaStreamSynchronize(self._stream))
        return Judged(*(found[name] for name in (SCORE_OUTPUT, *GRID_OUTPUTS)))

    def __del__(self) -> None:
        for address in getattr(self, "_addresses", {}).values():
            self._cuda.cudaFree(address)
        if hasattr(self, "_stream"):
            self._cuda.cudaStreamDestroy(self._stream)

    def _copy(self, to: int, source: int, n_bytes: int, kind: Any) -> None:
        self._checked(
            self._cuda.cudaMemcpyAsync(to, source, n_bytes, kind, self._stream)
        )

    def _checked(self, answer: tuple[Any, ...]) -> Any:
        """Give what a call of CUDA returned beside its status."""
        status, *values = answer
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise ConfigError(
                f"CUDA could not do what TensorRT needs ({status.name}); free memory "
                "on the device, or use --device cpu"
            )
        return values[0] if values else None


def _made(given: Any, what: str) -> Any:
    """Refuse the None that TensorRT gives where it cannot make something."""
    if given is None:
        raise ConfigError(
            f"TensorRT could not make its {what} (see its message), most often for "
            "want of memory; free some on the device, or use --device cpu"
        )
    return given


def _flags(tensorrt: Any) -> int:
    """Ask TensorRT 10 for what 11 always does."""
    flags = tensorrt.NetworkDefinitionCreationFlag
    strongly = getattr(flags, "STRONGLY_TYPED", None)
    is_optional = int(tensorrt.__version__.partition(".")[0]) < 11  # noqa: PLR2004
    return 1 << int(strongly) if is_optional and strongly is not None else 0
