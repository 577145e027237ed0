"""Exported .xml files by OpenVINO on the CPU. No torch."""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from efficientad.engines.engine import EngineOutput, Pixels, Precision
from efficientad.engines.graph_outputs import INPUT, RAW_OUTPUTS
from efficientad.errors import ConfigError, ModelFileError, needs_extra


class OpenVinoEngine:
    """Runs an exported .xml file with its .bin, or an .onnx file.

    The names of its outputs are given by the names of the maps. With bf16 the processor
    computes in bfloat16, else in float32 and, for an int8 graph, in 8 bits. Threads are
    those of all runs together; None is OpenVINO's own choice. Streams are runs at the
    same time.

    Raises:
        ModelFileError: If the engine cannot read the file.
        ConfigError: If the processor lacks what the precision needs.
        MissingDependencyError: If openvino is not installed.
    """

    is_concurrent = True
    device: Literal["cpu"] = "cpu"

    def __init__(
        self,
        path: Path,
        *,
        outputs: Mapping[str, str] = RAW_OUTPUTS,
        values: Iterable[str] = (),
        precision: Precision = "fp32",
        n_threads: int | None = None,
        n_streams: int = 1,
    ) -> None:
        with needs_extra(str(path), "openvino"):
            import openvino  # noqa: PLC0415 - only this engine needs it
        core = openvino.Core()
        # A mapped file that somebody copies another one over would end the process.
        core.set_property({"ENABLE_MMAP": False})
        if precision == "bf16":
            require_bf16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        settings: dict[str, Any] = {
            # By default a processor with bfloat16 would use that for everything.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "NUM_STREAMS": str(n_streams),
        }
        if n_threads is not None:
            settings["INFERENCE_NUM_THREADS"] = n_threads
            # By default two processes of one thread each may share one core.
            settings["ENABLE_CPU_PINNING"] = False
        self.precision = precision
        self._maps, self._values = tuple(outputs), tuple(values)
        try:
            model = core.read_model(path)
            names = [*outputs.values(), *self._values]
            results = [model.output(name) for name in names]
            wanted = openvino.Model(results, model.get_parameters(), "grids")
            self._compiled = core.compile_model(wanted, "CPU", settings)
        except RuntimeError as error:
            raise ModelFileError(
                f"{path} is not a model OpenVINO can read; export it again"
            ) from error
        self._requests = threading.local()

    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute the grids of images of one size, (batch, height, width, 3)."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        found = self._requests.own.infer({INPUT: pixels})
        # The request writes its next outputs to the same place.
        arrays = [np.array(found[index]) for index in range(len(found))]
        n = len(self._maps)
        return EngineOutput(
            dict(zip(self._maps, arrays[:n], strict=True)),
            dict(zip(self._values, arrays[n:], strict=True)),
        )


def require_bf16(capabilities: list[str]) -> None:
    """Raise `ConfigError` if OpenVINO's list of capabilities lacks bfloat16."""
    if "BF16" not in capabilities:
        raise ConfigError(
            "precision bf16 needs a processor with AVX512_BF16 or AMX, this one has "
            f"{', '.join(capabilities)}; use fp32, fp16 or int8"
        )
