"""The contract of engines: pixels in, named raw grids out.

An engine knows nothing of thresholds, masks, files or sizes of pictures. `Predictor`
does everything after the grids, the same for all engines.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""RGB images of the networks' size: (n, 256, 256, 3)."""

Precision = Literal["fp32", "fp16", "bf16", "int8"]

NO_VALUES: Final[Mapping[str, NDArray[np.float32]]] = {}


class EngineOutput(NamedTuple):
    """Output of an engine for a batch."""

    grids: Mapping[str, NDArray[np.float32]]
    """Raw maps by name, (n, rows, columns)."""
    values: Mapping[str, NDArray[np.float32]] = NO_VALUES
    """Image-level values by name, (n, length)."""


@runtime_checkable
class Engine(Protocol):
    """Computes raw grids of pixels."""

    @property
    def precision(self) -> Precision:
        """Precision of the largest part of the work."""
        ...

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Device that the engine runs on."""
        ...

    @property
    def is_concurrent(self) -> bool:
        """Whether several threads may call `run` at the same time."""
        ...

    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute the raw grids of a batch, (n, 256, 256, 3), n at least 1."""
        ...


@runtime_checkable
class LocalEngine(Protocol):
    """An engine that can leave out all but the local map, which saves time."""

    def run_local(self, pixels: Pixels) -> NDArray[np.float32]:
        """Compute the local grids of a batch, (n, 56, 56)."""
        ...


def local_grids(engine: Engine, pixels: Pixels) -> NDArray[np.float32]:
    """Return the local grids of a batch, (n, 56, 56), by any engine."""
    if isinstance(engine, LocalEngine):
        return engine.run_local(pixels)
    return engine.run(pixels).grids["local"]
