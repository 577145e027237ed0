"""Timing of functions on a machine that may do other work meanwhile. No torch here.

Compared functions are called in turn, so that a slower moment of the machine meets all
of them. Results are quantiles, never a single call.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

# The threads of an OpenMP engine spin for some milliseconds after a call, and would
# take the cores from the next function.
_SETTLING_SECONDS = 0.01


def _do_not_wait() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of the calls of a function."""

    milliseconds: tuple[float, ...]
    """Time of each call in their order, at least one."""

    @property
    def mean(self) -> float:
        """Mean in milliseconds."""
        return statistics.fmean(self.milliseconds)

    @property
    def median(self) -> float:
        """Median in milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def fastest(self) -> float:
        """Shortest time in milliseconds."""
        return min(self.milliseconds)

    def quantile(self, share: float) -> float:
        """Return the quantile in milliseconds, share in [0, 1]."""
        return float(np.quantile(self.milliseconds, share))

    def summary(self) -> dict[str, Any]:
        """Return the recorded values, with quartiles for the spread."""
        return {
            "n": len(self.milliseconds),
            "p50": self.median,
            "p99": self.quantile(0.99),
            "p25": self.quantile(0.25),
            "p75": self.quantile(0.75),
            "mean": self.mean,
        }


OnTurn: TypeAlias = Callable[[dict[str, Timing]], object]


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    n_warm_up: int = 1,
    on_turn: OnTurn = lambda _: None,
) -> dict[str, Timing]:
    """Return the timings of functions that are called in turn.

    A short pause before each call keeps after-effects of the previous one out of it.

    Args:
        functions: Functions to time, by name.
        repeats: Number of timed calls of each, at least 1.
        n_warm_up: Number of untimed calls before them.
        on_turn: Function that gets the timings so far after each turn.
    """
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(n_warm_up + repeats):
        for name, function in functions.items():
            time.sleep(_SETTLING_SECONDS)
            milliseconds = _timed(function, _do_not_wait)
            if turn >= n_warm_up:
                taken[name].append(milliseconds)
        if turn >= n_warm_up:
            found = {name: Timing(tuple(times)) for name, times in taken.items()}
            on_turn(found)
    return found


def consecutive(
    function: Callable[[], object],
    repeats: int,
    *,
    n_warm_up: int = 0,
    wait: Callable[[], object] = _do_not_wait,
) -> Timing:
    """Return the timing of one function, call after call, as the paper does on a GPU.

    Args:
        function: Function to time.
        repeats: Number of timed calls, at least 1.
        n_warm_up: Number of untimed calls before them.
        wait: Function that waits for the device; called before and after each call.
    """
    for _ in range(n_warm_up):
        function()
    return Timing(tuple(_timed(function, wait) for _ in range(repeats)))


def in_streams(
    function: Callable[[], object], n_streams: int, n_calls: int
) -> Callable[[], None]:
    """Return a function that makes calls in several threads at once.

    The threads live on, with their thread-local state.
    """

    def stream() -> None:
        for _ in range(n_calls):
            function()

    pool = ThreadPoolExecutor(n_streams)

    def call() -> None:
        for done in [pool.submit(stream) for _ in range(n_streams)]:
            done.result()

    return call


def _timed(function: Callable[[], object], wait: Callable[[], object]) -> float:
    wait()
    start = time.perf_counter()
    function()
    wait()
    return 1000 * (time.perf_counter() - start)
