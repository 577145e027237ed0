"""Settings of a benchmark. No torch here, so that the command line starts at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from efficientad.engines.names import Device
from efficientad.errors import ConfigError

BenchmarkEngine = Literal["native", "native_bf16", "pytorch", "onnx", "openvino"]
"""Engines of a `.ead` file; the last two run exports made for the benchmark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """How speed and memory are measured. `None` means: as suits the device."""

    engines: tuple[BenchmarkEngine, ...] | None = None
    """Engines that run a .ead file. None: all that are installed."""

    anomalib: Path | None = None
    """The Python of an environment that has anomalib, whose EfficientAd is then
    measured with the weights of the .ead file."""

    device: Device = "auto"
    """Device of the networks. `auto` takes CUDA where there is one."""

    repeats: int | None = None
    """Timed predictions of each engine, at least 1. None: 50 on a CPU, in turn with
    the others; the paper's 1000 on a GPU, after as many to warm up."""

    batch_size: int = 16
    """Images a call where throughput is measured, at least 1; the paper's 16."""

    streams: int | None = None
    """Threads that predict at once, at least 1. None: one for each core, up to 8."""

    layers: bool = True
    """Whether every layer of the plain networks is timed."""

    memory: bool = True
    """Whether peak memory is measured, in a process of its own for each engine."""

    def __post_init__(self) -> None:
        """Reject settings outside their documented range."""
        for name in ("repeats", "batch_size", "streams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.engines is not None and not self.engines:
            raise ConfigError(
                "engines needs at least one name, got none; leave it out for all"
            )
