"""What a benchmark found, as JSON and as tables."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from efficientad.storage import write_atomically
from efficientad_lab.benchmark.clock import Timing
from efficientad_lab.benchmark.costs import NetworkCost, Peak, Precision

_GIGA: Final = 1e9
# Layers below this share of the time have no line in the table; the JSON has them all.
_LEAST_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What was measured of one candidate."""

    name: str
    precision: Precision
    flops: float | None
    """Of the plain networks of its size, an image; None where it is not known."""
    latency: Timing
    """Of one image."""
    batch: Timing
    """Of one call with a batch."""
    streams: Timing
    """Of all images of all streams."""
    peak_memory_mib: Mapping[str, float] | None
    """As `deployment.memory` gives it. None: not measured."""
    largest_difference: float
    """Of any value of the combined map from the first candidate's, relative to the
    largest value, or to 0.1 if that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReport:
    """All candidates, the first being what the others are compared with."""

    model: str
    """Name of the file."""
    settings: Mapping[str, Any]
    is_on_gpu: bool
    n_images_of_streams: int
    """Of all streams together, each time."""
    results: tuple[EngineReport, ...]
    limits: Mapping[Precision, Peak]
    """What the machine can do; empty where PyTorch is not installed."""
    cost: NetworkCost | None
    """None where the size of the networks is not known, or PyTorch not installed."""
    surroundings: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Give everything that was measured; times in milliseconds."""
        cost = self.cost
        return {
            "experiment": "benchmark",
            "model": self.model,
            "settings": dict(self.settings),
            "runtimes": [self._measured(result) for result in self.results],
            "limits": {k: peak.summary() for k, peak in self.limits.items()},
            "cost": None
            if cost is None
            else {
                "size": cost.size,
                "n_parameters": cost.n_parameters,
                "flops": cost.flops,
                "layers": list(self._layers(cost)),
            },
            **self.surroundings,
        }

    def write(self, path: Path) -> None:
        """Write all of it as JSON.

        Raises:
            StorageError: If the file cannot be written; what stood there stays.
        """
        text = json.dumps(self.as_json(), indent=1, allow_nan=False)
        write_atomically(path, f"{text}\n".encode())

    def text(self) -> str:
        """Give all that is read by people: tables and the machine's limits."""
        where = f"{self.model} on {self.surroundings['machine']}"
        parts = [where, self.table(), "\n".join(self.limit_lines())]
        if self.cost is not None:
            parts.append(
                f"plain networks, {self.cost.size}: "
                f"{self.cost.n_parameters / 1e6:.2f} M parameters, "
                f"{self.cost.flops / _GIGA:.1f} GFLOP an image"
            )
            if self.cost.timings is not None:
                parts.append(self.layer_table())
        return "\n\n".join(part for part in parts if part)

    def table(self) -> str:
        """Compare the candidates; `times` is how much sooner than the first."""
        n, n_streams = self.settings["batch_size"], self.settings["streams"]
        memory_of = "GPU MiB" if self.is_on_gpu else "peak MiB"
        rows = [
            (
                *("runtime", "precision", "p50, ms", "p25 - p75", "p99, ms", "times"),
                *(f"images/s by {n}", "times", f"images/s, {n_streams} streams"),
                *("times", memory_of, "GFLOP/s", "of limit, %", "difference"),
            )
        ]
        first = self._measured(self.results[0])
        for measured in map(self._measured, self.results):
            latency, memory = measured["latency_ms"], measured["peak_memory_mib"]
            rows.append(
                (
                    measured["runtime"],
                    measured["precision"],
                    f"{latency['p50']:.1f}",
                    f"{latency['p25']:.1f} - {latency['p75']:.1f}",
                    f"{latency['p99']:.1f}",
                    f"{measured['speedup']:.2f}",
                    *_against(measured, first, "images_per_second_of_batch"),
                    *_against(measured, first, "images_per_second_of_streams"),
                    _number(self._peak(memory), 1, digits=0),
                    _number(measured["flops_per_second"], 1 / _GIGA),
                    _number(measured["share_of_limit"], 100),
                    f"{measured['largest_difference']:.1e}",
                )
            )
        return _aligned(rows)

    def _peak(self, memory: Mapping[str, float] | None) -> float | None:
        """Give the peak of the process or, on a GPU, what PyTorch reserved of it."""
        if memory is None:
            return None
        return memory.get("gpu_reserved") if self.is_on_gpu else max(memory.values())

    def layer_table(self) -> str:
        """Tell where the time of the plain networks goes."""
        assert self.cost is not None
        rows = [("network", "layer", "gives", "MFLOP", "ms", "% of time", "GFLOP/s")]
        for layer in self._layers(self.cost):
            if layer["share_of_time"] is None or layer["share_of_time"] < _LEAST_SHARE:
                continue
            rows.append(
                (
                    layer["network"],
                    layer["name"],
                    "x".join(map(str, layer["output"])),
                    f"{layer['flops'] / 1e6:.0f}",
                    f"{layer['milliseconds']:.2f}",
                    f"{100 * layer['share_of_time']:.1f}",
                    _number(layer["flops_per_second"] or None, 1 / _GIGA),
                )
            )
        return _aligned(rows)

    def limit_lines(self) -> list[str]:
        """Say what the machine can do, a line a precision."""
        return [
            f"limit of {precision}: {peak.flops_per_second / _GIGA:.1f} GFLOP/s "
            f"({peak.precision}, {peak.engine}, {peak.n} x {peak.n})"
            for precision, peak in self.limits.items()
        ]

    def _measured(self, result: EngineReport) -> dict[str, Any]:
        median = result.latency.median
        limit = self.limits.get(result.precision)
        flops = None if result.flops is None else result.flops / (median / 1000)
        share = None
        if result.flops is not None and limit is not None:
            # The fastest of both: what is compared is the machine undisturbed.
            fastest = result.flops / (result.latency.fastest / 1000)
            share = fastest / limit.flops_per_second
        return {
            "runtime": result.name,
            "precision": result.precision,
            "latency_ms": result.latency.summary(),
            "speedup": self.results[0].latency.median / median,
            "images_per_second_of_batch": self.settings["batch_size"]
            / (result.batch.median / 1000),
            "batch_ms": result.batch.summary(),
            "images_per_second_of_streams": self.n_images_of_streams
            / (result.streams.median / 1000),
            "streams_ms": result.streams.summary(),
            "peak_memory_mib": result.peak_memory_mib,
            "flops_per_second": flops,
            "share_of_limit": share,
            "largest_difference": result.largest_difference,
        }

    @staticmethod
    def _layers(cost: NetworkCost) -> Iterable[dict[str, Any]]:
        timings = cost.timings
        total = None if timings is None else sum(t.median for t in timings)
        for index, layer in enumerate(cost.layers):
            median = None if timings is None else timings[index].median
            yield asdict(layer) | {
                "milliseconds": median,
                "share_of_time": None
                if median is None or not total
                else median / total,
                "flops_per_second": None
                if median is None
                else layer.flops / (median / 1000),
            }


def _against(
    measured: Mapping[str, Any], first: Mapping[str, Any], name: str
) -> tuple[str, str]:
    return f"{measured[name]:.1f}", f"{measured[name] / first[name]:.2f}"


def _number(value: float | None, factor: float, *, digits: int = 1) -> str:
    return "" if value is None else f"{factor * value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Put columns under each other: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_number = [
        all(not cell or cell[0].isdigit() for cell in column[1:])
        for column in zip(*rows, strict=True)
    ]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
