"""False alarms and delays of the station's drift watch, on simulated scores.

    python lab/experiments/station_drift/run.py

Scores are normal numbers, continuous or rounded to tenths so that many are equal. The
threshold flags 3 % of them. The control ranks each score among the calibration's alone.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from efficientad.station.watching.drift import RankDrift
from efficientad.station.watching.statistics import (
    PARTS_PER_FALSE_ALARM,
    Part,
    SourceDrift,
)
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import Run, write_run

RESULTS = Path(__file__).with_name("results")
N_CALIBRATION: Final = 100
RATE: Final = 0.03
THRESHOLD: Final = 1.8807936081512509
"""Score that 3 % of normal numbers exceed."""
ROUNDED_THRESHOLD: Final = 1.85
"""Score that 3.2 % of numbers rounded to tenths exceed."""


@dataclass(slots=True)
class FixedReference(RankDrift):
    """Ranks among a calibration set that later numbers do not join: the control."""

    def _p_value(self, value: float, chance: float) -> float:
        p_value = RankDrift._p_value(self, value, chance)  # noqa: SLF001
        self.seen.remove(value)
        return p_value


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Simulated streams of parts."""

    n: int = 1000
    n_parts: int = 3000
    parts_per_false_alarm: float = PARTS_PER_FALSE_ALARM
    n_calibration: int = N_CALIBRATION
    is_rounded: bool = False
    has_fixed_reference: bool = False
    shift: float = 0.0
    """Standard deviations that scores rise by."""
    n_before: int = 0
    """Parts before the shift."""


def first_alarm(streams: Streams, seed: int) -> int | None:
    """Return the number of parts until the alarm in one stream, None without one."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=streams.n_calibration)
    numbers = rng.normal(size=(streams.n_parts, 4))
    numbers[streams.n_before :, 0] += streams.shift
    threshold, rate = THRESHOLD, RATE
    if streams.is_rounded:
        normal, numbers = normal.round(1), numbers.round(1)
        threshold, rate = ROUNDED_THRESHOLD, 0.0322
    drift = SourceDrift(normal.tolist(), threshold, rate, streams.parts_per_false_alarm)
    if streams.has_fixed_reference:
        drift.score = FixedReference(drift.score.seen)
    for n, (score, *appearance) in enumerate(numbers.tolist(), 1):
        drift.add(Part(f"{seed}-{n}", score, score > threshold, *appearance))
        if drift.is_alarm:
            return n
    return None


def n_alarms(streams: Streams) -> int:
    """Return the number of streams that raise an alarm."""
    return sum(first_alarm(streams, seed) is not None for seed in range(streams.n))


def n_alarms_allowed(streams: Streams) -> float:
    """Return T / A of all streams and three standard deviations of that number."""
    share = min(streams.n_parts / streams.parts_per_false_alarm, 1.0)
    return float(streams.n * share + 3 * np.sqrt(streams.n * share * (1 - share)))


def delays(streams: Streams) -> list[float]:
    """Return the parts from the shift to the alarm, infinite without one.

    An alarm before the shift counts as none.
    """
    found = [first_alarm(streams, seed) for seed in range(streams.n)]
    return [
        np.inf if n is None or n <= streams.n_before else float(n - streams.n_before)
        for n in found
    ]


NULL: Final = {
    "no drift": Streams(),
    "no drift, ties": Streams(is_rounded=True),
    "no drift, A = 30 000": Streams(parts_per_false_alarm=30_000),
    "no drift, A = 30 000, ties": Streams(
        parts_per_false_alarm=30_000, is_rounded=True
    ),
    "no drift, control: fixed calibration": Streams(has_fixed_reference=True),
}
SHIFTED: Final = {
    f"shift of {shift:g} standard deviations after {n_before} parts": Streams(
        shift=shift, n_before=n_before, n_parts=n_before + 1500
    )
    for shift in (1.0, 0.5)
    for n_before in (300, 1000)
}


def main() -> None:
    """Simulate and record all variants."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for variant, streams in (NULL | SHIFTED).items():
        metrics: dict[str, float] = {"n_streams": streams.n}
        if streams.shift:
            metrics["median_delay"] = float(np.median(delays(streams)))
        else:
            metrics["n_alarms"] = n_alarms(streams)
            metrics["n_alarms_allowed"] = n_alarms_allowed(streams)
        run: Run = {
            "experiment": "station_drift",
            "category": "simulated scores",
            "variant": variant,
            "seed": 0,
            "settings": {
                "n_parts": streams.n_parts,
                "parts_per_false_alarm": streams.parts_per_false_alarm,
                "n_calibration": streams.n_calibration,
            },
            "metrics": metrics,
        }
        print(write_run(run | environment(), RESULTS), metrics)


if __name__ == "__main__":
    main()
