"""Exported .onnx files by ONNX Runtime on the CPU. No torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.engine import EngineOutput, Pixels, Precision
from efficientad.engines.graph_outputs import INPUT, RAW_OUTPUTS
from efficientad.errors import MissingDependencyError, ModelFileError


class OnnxRuntimeEngine:
    """Runs an exported .onnx file.

    Args:
        path: The .onnx file.
        outputs: Names of the graph's outputs by the names of the maps.
        precision: Precision of the file.
        n_threads: Threads of one run. None: as many as there are cores.

    Raises:
        ModelFileError: If the engine cannot read the file.
        MissingDependencyError: If onnxruntime is not installed.
    """

    is_concurrent = True
    device: Literal["cpu"] = "cpu"

    def __init__(
        self,
        path: Path,
        *,
        outputs: Mapping[str, str] = RAW_OUTPUTS,
        precision: Precision = "fp32",
        n_threads: int | None = None,
    ) -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - only this engine needs it
            from onnxruntime.capi import (  # noqa: PLC0415 - likewise
                onnxruntime_pybind11_state as states,
            )
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"{path} needs onnxruntime, which is not installed; "
                "run: pip install 'efficientad[onnx]'"
            ) from error
        self.precision, self._outputs = precision, dict(outputs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads or 0
        # Waiting threads must not occupy the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # only errors are printed
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
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

    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute the grids of images of one size, (batch, height, width, 3)."""
        found = self.outputs(pixels, self._outputs.values())
        return EngineOutput({k: found[name] for k, name in self._outputs.items()})

    def outputs(
        self, pixels: Pixels, names: Iterable[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Return outputs of the graph by their names."""
        wanted = list(names)
        found = self._session.run(wanted, {INPUT: pixels})
        return dict(zip(wanted, found, strict=True))
