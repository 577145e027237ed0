"""The result of a benchmark, as JSON and as a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from efficientad.engines.engine import Precision
from efficientad.storage import write_atomically
from efficientad_lab.benchmark.candidates import BASELINE
from efficientad_lab.benchmark.clock import Timing
from efficientad_lab.benchmark.costs import NetworkCost
from efficientad_lab.benchmark.hardware import Peak

_GIGA: Final = 1e9


def speed_sentence(model: str, latencies: Mapping[str, Timing]) -> str:
    """Return the speed of the fastest candidate for one image after the other.

    Args:
        model: Name of the model file.
        latencies: Time of one image for each candidate.
    """
    name = min(latencies, key=lambda each: latencies[each].median)
    rate = 1000 / latencies[name].median
    text = f"{model}: {rate:.2g} pictures a second on this machine by {name}"
    if BASELINE not in latencies or name == BASELINE:
        return text
    times = latencies[BASELINE].median / latencies[name].median
    return f"{text}, {times:.2g} times the plain networks"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """Measurements of one candidate."""

    name: str
    precision: Precision
    flops: float
    """Operations of the plain networks of its size, for one image."""
    latency: Timing
    """Time of one image."""
    batch: Timing | None
    """Time of one call with a batch. None: not measured."""
    streams: Timing | None
    """Time of all images of all streams. None: not measured."""
    peak_memory_mib: Mapping[str, float] | None
    """Peaks by name, see `peak_memory`. None: not measured."""
    largest_difference: float
    """Largest difference of the combined map from the first candidate's, relative to
    the largest value, or to 0.1 if that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReport:
    """Measurements of all candidates; the others are compared with the first."""

    model: str
    """Name of the model file."""
    settings: Mapping[str, Any]
    is_on_gpu: bool
    n_images_of_streams: int
    """Images of all streams together in each turn."""
    results: tuple[EngineReport, ...]
    is_complete: bool
    """Whether no measurement was left out or shortened by a Ctrl-C."""
    limits: Mapping[Precision, Peak]
    """Fastest matrix product of the machine in each precision."""
    cost: NetworkCost
    environment: Mapping[str, Any]
    """Machine, load, versions and commit."""

    def as_json(self) -> dict[str, Any]:
        """Return all measurements; times in milliseconds."""
        cost = self.cost
        return {
            "experiment": "benchmark",
            "model": self.model,
            "settings": dict(self.settings),
            "engines": [self._measured(result) for result in self.results],
            "limits": {k: peak.summary() for k, peak in self.limits.items()},
            "cost": asdict(cost)
            | {"n_parameters": cost.n_parameters, "flops": cost.flops},
            **self.environment,
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON.

        Raises:
            StorageError: If the file cannot be written; the previous one stays.
        """
        text = json.dumps(self.as_json(), indent=1, allow_nan=False)
        write_atomically(path, f"{text}\n".encode())

    def text(self) -> str:
        """Return the table, the limits of the machine and the cost as text."""
        limits = [
            f"limit of {precision}: {peak.flops_per_second / _GIGA:.1f} GFLOP/s "
            f"({peak.precision}, {peak.engine}, {peak.n} x {peak.n})"
            for precision, peak in self.limits.items()
        ]
        cost = (
            f"plain networks, {self.cost.size}: "
            f"{self.cost.n_parameters / 1e6:.2f} M parameters, "
            f"{self.cost.flops / _GIGA:.1f} GFLOP an image"
        )
        latencies = {result.name: result.latency for result in self.results}
        sentence = speed_sentence(self.model, latencies)
        where = f"{self.model} on {self.environment['machine']}"
        return "\n\n".join([sentence, where, self.table(), "\n".join(limits), cost])

    def table(self) -> str:
        """Return the table of candidates; `times` is the ratio to the first one."""
        n, n_streams = self.settings["batch_size"], self.settings["streams"]
        memory_of = "GPU MiB" if self.is_on_gpu else "peak MiB"
        rows = [
            (
                *("engine", "precision", "p50, ms", "p25 - p75", "p99, ms", "times"),
                *(f"images/s by {n}", "times", f"images/s, {n_streams} streams"),
                *("times", memory_of, "GFLOP/s", "of limit, %", "difference"),
            )
        ]
        all_measured = [self._measured(result) for result in self.results]
        first = all_measured[0]
        for measured in all_measured:
            latency, peak = measured["latency_ms"], self._peak(measured)
            rows.append(
                (
                    measured["engine"],
                    measured["precision"],
                    f"{latency['p50']:.1f}",
                    f"{latency['p25']:.1f} - {latency['p75']:.1f}",
                    f"{latency['p99']:.1f}",
                    f"{measured['speedup']:.2f}",
                    *_against(measured, first, "images_per_second_of_batch"),
                    *_against(measured, first, "images_per_second_of_streams"),
                    "" if peak is None else f"{peak:.0f}",
                    f"{measured['flops_per_second'] / _GIGA:.1f}",
                    f"{100 * measured['share_of_limit']:.1f}",
                    f"{measured['largest_difference']:.1e}",
                )
            )
        return _aligned(rows)

    def _peak(self, measured: Mapping[str, Any]) -> float | None:
        """Return the peak of the process; on a GPU, the memory PyTorch reserved."""
        memory: Mapping[str, float] | None = measured["peak_memory_mib"]
        if memory is None:
            return None
        return memory.get("gpu_reserved") if self.is_on_gpu else max(memory.values())

    def _measured(self, result: EngineReport) -> dict[str, Any]:
        median = result.latency.median
        # The fastest of both, as on an undisturbed machine.
        fastest = result.flops / (result.latency.fastest / 1000)
        limit = self.limits[result.precision].flops_per_second
        return {
            "engine": result.name,
            "precision": result.precision,
            "latency_ms": result.latency.summary(),
            "speedup": self.results[0].latency.median / median,
            "images_per_second_of_batch": _rate(
                self.settings["batch_size"], result.batch
            ),
            "batch_ms": result.batch and result.batch.summary(),
            "images_per_second_of_streams": _rate(
                self.n_images_of_streams, result.streams
            ),
            "streams_ms": result.streams and result.streams.summary(),
            "peak_memory_mib": result.peak_memory_mib,
            "flops_per_second": result.flops / (median / 1000),
            "share_of_limit": fastest / limit,
            "largest_difference": result.largest_difference,
        }


def _against(
    measured: Mapping[str, Any], first: Mapping[str, Any], name: str
) -> tuple[str, str]:
    if measured[name] is None:
        return "", ""
    return f"{measured[name]:.1f}", f"{measured[name] / first[name]:.2f}"


def _rate(n_images: int, timing: Timing | None) -> float | None:
    """Return images a second; None where it was not measured."""
    return None if timing is None else n_images / (timing.median / 1000)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows with aligned columns: words to the left, numbers to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_number = [
        all(not cell or cell[0].isdigit() for cell in column[1:]) for column in columns
    ]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
