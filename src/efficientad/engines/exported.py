"""ONNX Runtime and OpenVINO, asked for score and grids of a batch of images.

Both may be called from several threads at once. No torch.
"""

import threading
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import ConfigError, MissingDependencyError, ModelFileError
from efficientad.model_files.export_metadata import Precision

EngineName = Literal["onnxruntime", "openvino", "tensorrt"]

INPUT: Final = "images"
SCORE_OUTPUT: Final = "image_score"
GRID_OUTPUTS: Final = ("local_grid", "global_grid")
JUDGED_OUTPUTS: Final = (SCORE_OUTPUT, *GRID_OUTPUTS)
MAP_OUTPUTS: Final = ("combined_map", "local_map", "global_map")
"""(batch, height, width), at the images' own size. For callers of the graph in other
languages; this package draws maps from the grids when they are asked for."""


class Judged(NamedTuple):
    """What the graph says about a batch."""

    scores: NDArray[np.float32]
    """(batch,)."""
    local_grids: NDArray[np.float32]
    """(batch, 56, 56), normalized."""
    global_grids: NDArray[np.float32]
    """(batch, 56, 56), normalized."""


@runtime_checkable
class Engine(Protocol):
    """Runs an exported graph."""

    def run(self, images: NDArray[np.uint8]) -> Judged:
        """Judge images of one size, (batch, height, width, 3)."""
        ...


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU.

    Args:
        path: An .onnx file.
        n_threads: Of one run. None: as many as there are cores.

    Raises:
        ModelFileError: If the engine cannot read the file.
        MissingDependencyError: If onnxruntime is not installed.
    """

    def __init__(self, path: Path, *, n_threads: int | None = None) -> None:
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
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads or 0
        # Threads that wait leave the cores to others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Messages of the engine itself: errors only.
        options.log_severity_level = 3
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

    def run(self, images: NDArray[np.uint8]) -> Judged:
        """Judge images of one size, (batch, height, width, 3)."""
        return Judged(*self._session.run(JUDGED_OUTPUTS, {INPUT: images}))

    def run_whole(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Give every output of the graph by its name."""
        names = [*JUDGED_OUTPUTS, *MAP_OUTPUTS]
        return dict(zip(names, self._session.run(names, {INPUT: images}), strict=True))


class OpenVinoEngine:
    """OpenVINO on the CPU.

    Args:
        path: An .xml file with its .bin, or an .onnx file.
        precision: bf16 lets the processor compute in bfloat16; all else in float32 and,
            where the graph says so, in 8 bits.
        n_threads: Of all runs together. None: as OpenVINO finds best.
        n_streams: Runs at the same time.
        is_whole: Compute the graph's maps as well, which `run_whole` needs.

    Raises:
        ModelFileError: If the engine cannot read the file.
        ConfigError: If the processor has not what the precision needs.
        MissingDependencyError: If openvino is not installed.
    """

    def __init__(
        self,
        path: Path,
        *,
        precision: Precision = "fp32",
        n_threads: int | None = None,
        n_streams: int = 1,
        is_whole: bool = False,
    ) -> None:
        try:
            import openvino  # noqa: PLC0415 - only this engine needs it
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"{path} needs openvino, which is not installed; "
                "run: pip install 'efficientad[openvino]'"
            ) from error
        core = openvino.Core()
        if precision == "bf16":
            require_bf16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        settings: dict[str, Any] = {
            # Else a processor with bfloat16 would take that for everything.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "NUM_STREAMS": str(n_streams),
        }
        if n_threads is not None:
            settings["INFERENCE_NUM_THREADS"] = n_threads
            # Else two processes of one thread each might be tied to the same core.
            settings["ENABLE_CPU_PINNING"] = False
        try:
            model = core.read_model(path)
            names = [*JUDGED_OUTPUTS, *(MAP_OUTPUTS if is_whole else ())]
            outputs = [model.output(name) for name in names]
            judged = openvino.Model(outputs, model.get_parameters(), "judged")
            self._compiled = core.compile_model(judged, "CPU", settings)
        except RuntimeError as error:
            raise ModelFileError(
                f"{path} is not a model OpenVINO can read; export it again"
            ) from error
        self._names = names
        self._requests = threading.local()

    def run(self, images: NDArray[np.uint8]) -> Judged:
        """Judge images of one size, (batch, height, width, 3)."""
        found = self.run_whole(images)
        return Judged(*(found[name] for name in JUDGED_OUTPUTS))

    def run_whole(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Give every output by its name; maps where they were asked for."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        found = self._requests.own.infer({INPUT: images})
        # The request writes its next outputs to the same place.
        return {name: np.array(found[index]) for index, name in enumerate(self._names)}


def require_utf8(path: Path) -> None:
    """Refuse a name that no engine can open.

    Raises:
        ModelFileError: If it is no UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ModelFileError(
            f"{path} has a name that is no UTF-8, which engines cannot open; rename or "
            "move it"
        ) from error


def require_counts(*, n_threads: int | None = None, n_streams: int = 1) -> None:
    """Refuse numbers of threads or streams that nothing could run with.

    Raises:
        ConfigError: If one is below 1.
    """
    for count, what in ((n_threads, "thread"), (n_streams, "stream")):
        if count is not None and count < 1:
            raise ConfigError(
                f"an engine needs at least 1 {what}, got {count}; give 1 or more"
            )


def require_bf16(capabilities: list[str]) -> None:
    """Refuse a processor without bfloat16.

    Args:
        capabilities: What OpenVINO says it is good at.

    Raises:
        ConfigError: If bfloat16 is not among them.
    """
    if "BF16" not in capabilities:
        raise ConfigError(
            "precision bf16 needs a processor with AVX512_BF16 or AMX, this one has "
            f"{', '.join(capabilities)}; use fp32, fp16 or int8"
        )
