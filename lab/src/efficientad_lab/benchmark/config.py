"""Settings of a benchmark. No torch here, so that the command line starts at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from efficientad.engines.names import Device, EngineName
from efficientad.errors import ConfigError
from efficientad.settings import BatchSize, Parallel, Range, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """Settings of a benchmark. `None` means: depends on the device."""

    engines: tuple[EngineName, ...] | None = None
    """Engines for a .ead file; `onnxruntime` and `openvino` run exports made for the
    benchmark. None: all that work."""

    anomalib: Path | None = None
    """Python of an environment with anomalib, whose EfficientAd is then measured with
    the weights of the .ead file."""

    device: Device = "auto"
    """Device of the networks. `auto` takes CUDA where there is one."""

    repeats: Annotated[int, Range(1, 10_000_000)] | None = None
    """Timed predictions of each candidate, from 1 to ten million. None: 50 on a CPU,
    and the paper's 1000 on a GPU, after as many to warm up."""

    batch_size: BatchSize = 16
    """Images of a call in the measurement of throughput, from 1 to 1024; the paper's
    16."""

    streams: Parallel | None = None
    """Threads that predict at the same time, from 1 to 1024. None: one for each core,
    up to 8."""

    memory: bool = True
    """Measure peak memory, in a process of its own for each candidate."""

    def __post_init__(self) -> None:
        """Reject settings outside their documented range."""
        check_fields(self)
        if self.engines is not None and not self.engines:
            raise ConfigError(
                "engines needs at least one name, got none; leave it out for all"
            )
