"""Exported .onnx files by ONNX Runtime on the CPU or on a CUDA device. No torch.

On a CUDA device, files in fp32 run by the CUDA provider without TF32, so that the maps
equal those of the CPU. Files in fp16 run in half precision by the TensorRT provider,
where it is available; operators it does not have are left to the CUDA provider. The
CUDA part is written against the documentation and has not run on a GPU yet.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from efficientad.engines.engine import EngineOutput, Pixels, Precision
from efficientad.engines.graph_outputs import INPUT, RAW_OUTPUTS
from efficientad.errors import ConfigError, ModelFileError, needs_extra

_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_TENSORRT: Final = "TensorrtExecutionProvider"

Provider = tuple[str, dict[str, Any]]
"""An execution provider of ONNX Runtime: its name and its options."""


class OnnxRuntimeEngine:
    """Runs an exported .onnx file.

    The names of its outputs are given by the names of the maps. A run has `n_threads`
    or, without them, as many as there are cores.

    Raises:
        ConfigError: If this installation of ONNX Runtime cannot use the device, or the
            file is in int8, which is for CPUs.
        ModelFileError: If the engine cannot read the file.
        MissingDependencyError: If onnxruntime is not installed.
    """

    is_concurrent = True

    def __init__(
        self,
        path: Path,
        *,
        outputs: Mapping[str, str] = RAW_OUTPUTS,
        values: Iterable[str] = (),
        precision: Precision = "fp32",
        device: Literal["cpu", "cuda"] = "cpu",
        n_threads: int | None = None,
    ) -> None:
        with needs_extra(str(path), "onnx"):
            import onnxruntime  # noqa: PLC0415 - only this engine needs it
            from onnxruntime.capi import (  # noqa: PLC0415 - likewise
                onnxruntime_pybind11_state as states,
            )
        self.precision, self.device = precision, device
        self._outputs, self._values = dict(outputs), tuple(values)
        providers: list[Provider] = [(_CPU, {})]
        if device == "cuda":
            available = onnxruntime.get_available_providers()
            providers = cuda_providers(path, precision, available) + providers
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads or 0
        # Waiting threads must not occupy the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # only errors are printed
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=providers
            )
        except (  # The engine's own exceptions share no base of theirs.
            states.Fail,
            states.InvalidArgument,
            states.InvalidGraph,
            states.InvalidProtobuf,
            states.NoSuchFile,
            states.NotImplemented,
            states.RuntimeException,
        ) as error:
            raise ModelFileError(
                f"{path} is not an ONNX file that can be read; export it again"
            ) from error
        # Where a library is missing, ONNX Runtime falls back to the CPU.
        if device == "cuda" and self._session.get_providers() == [_CPU]:
            raise ConfigError(
                f"device cuda needs the CUDA libraries of onnxruntime-gpu for {path}, "
                "they cannot be loaded; run: pip install "
                "'onnxruntime-gpu[cuda,cudnn]', or use --device cpu"
            )

    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute the grids of images of one size, (batch, height, width, 3)."""
        wanted = [*self._outputs.values(), *self._values]
        arrays = self._session.run(wanted, {INPUT: pixels})
        found = dict(zip(wanted, arrays, strict=True))
        return EngineOutput(
            {name: found[output] for name, output in self._outputs.items()},
            {name: found[name] for name in self._values},
        )


def cuda_providers(
    path: Path, precision: Precision, available: Collection[str]
) -> list[Provider]:
    """Return what runs a file on a CUDA device, the first choice first.

    Raises:
        ConfigError: If there is no provider for the device, or the file is in int8.
    """
    if precision == "int8":
        raise ConfigError(
            f"{path} is in int8, which is for CPUs; export fp16 for a GPU"
        )
    if _CUDA not in available:
        raise ConfigError(
            f"device cuda needs onnxruntime-gpu for {path}, the installed ONNX Runtime "
            f"has {', '.join(available)}; run: pip uninstall onnxruntime && pip "
            "install onnxruntime-gpu"
        )
    found: list[Provider] = [(_CUDA, {"use_tf32": "0"})]
    if precision == "fp16" and _TENSORRT in available:
        found.insert(0, (_TENSORRT, {"trt_fp16_enable": "1"}))
    return found
