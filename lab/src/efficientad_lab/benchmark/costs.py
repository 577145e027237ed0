"""Costs of networks and limits of a machine, as numbers. No torch here."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from efficientad_lab.benchmark.clock import Timing

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer of one network, at one image."""

    network: Literal["teacher", "student", "autoencoder"]
    name: str
    """Operation, for example `conv 4x4, 3 to 128`."""
    output: tuple[int, int, int]
    """Channels, rows and columns of the output."""
    n_parameters: int
    flops: int
    """Operations of one image, as PyTorch counts them: two for each multiplication and
    addition of a convolution, none for other layers."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The fastest matrix product of a precision on this machine."""

    precision: Precision
    engine: str
    """Engine of the product."""
    n: int
    """Rows and columns of both matrices."""
    timing: Timing

    @property
    def flops_per_second(self) -> float:
        """Multiplications and additions of the fastest product, per second."""
        return 2 * self.n**3 / (self.timing.fastest / 1000)

    def summary(self) -> dict[str, Any]:
        """Return the recorded values."""
        return {
            "precision": self.precision,
            "engine": self.engine,
            "n": self.n,
            "flops_per_second": self.flops_per_second,
            "n_timed": len(self.timing.milliseconds),
        }


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """Costs of all networks of a size together."""

    size: str
    """`small` or `medium`."""
    layers: tuple[LayerCost, ...]
    timings: tuple[Timing, ...] | None = None
    """Timing of each layer of the plain networks. None: not measured."""

    @property
    def n_parameters(self) -> int:
        """Number of parameters of teacher, student and autoencoder."""
        return sum(layer.n_parameters for layer in self.layers)

    @property
    def flops(self) -> int:
        """Operations of one image."""
        return sum(layer.flops for layer in self.layers)
