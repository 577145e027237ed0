"""Times of functions on a machine that may do other things meanwhile. No torch here.

Functions that are compared are called in turn, so that a slower moment of the machine
meets all of them; what is reported are quantiles, never a single run.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

# The threads of an OpenMP engine go on turning for some milliseconds after a call, and
# would take the cores from whatever is called next.
_SETTLING_SECONDS = 0.01


def _nothing_to_wait_for() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Timing:
    """What each call of a function took."""

    milliseconds: tuple[float, ...]
    """In the order of the calls, at least one."""

    @property
    def mean(self) -> float:
        """Average, milliseconds."""
        return statistics.fmean(self.milliseconds)

    @property
    def median(self) -> float:
        """Half of the calls were done by then, milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def fastest(self) -> float:
        """Of all calls, milliseconds."""
        return min(self.milliseconds)

    def quantile(self, share: float) -> float:
        """Give the milliseconds that this share of the calls stayed below."""
        return float(np.quantile(self.milliseconds, share))

    def summary(self) -> dict[str, Any]:
        """Give what is recorded; quartiles tell the spread."""
        return {
            "n": len(self.milliseconds),
            "p50": self.median,
            "p99": self.quantile(0.99),
            "p25": self.quantile(0.25),
            "p75": self.quantile(0.75),
            "mean": self.mean,
        }


def interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int, *, n_warm_up: int = 1
) -> dict[str, Timing]:
    """Time functions that are called in turn, again and again.

    A short pause before each call keeps what the one before left behind out of it.

    Args:
        functions: By name.
        repeats: Timed turns, at least 1.
        n_warm_up: Turns before them that do not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(n_warm_up + repeats):
        for name, function in functions.items():
            time.sleep(_SETTLING_SECONDS)
            milliseconds = _timed(function, _nothing_to_wait_for)
            if turn >= n_warm_up:
                taken[name].append(milliseconds)
    return {name: Timing(tuple(times)) for name, times in taken.items()}


def consecutive(
    function: Callable[[], object],
    repeats: int,
    *,
    n_warm_up: int = 0,
    wait: Callable[[], object] = _nothing_to_wait_for,
) -> Timing:
    """Time one function, call after call, as the paper does on a GPU.

    Args:
        function: What is timed.
        repeats: Timed calls, at least 1.
        n_warm_up: Calls before them that do not count.
        wait: Waits until all that was started is done, before and after each call.
    """
    for _ in range(n_warm_up):
        function()
    return Timing(tuple(_timed(function, wait) for _ in range(repeats)))


def in_streams(
    function: Callable[[], object], n_streams: int, n_calls: int
) -> Callable[[], None]:
    """Give a function that makes calls in several threads at once.

    The threads stay, as what they keep for themselves does.

    Args:
        function: May be called from several threads at once.
        n_streams: Threads.
        n_calls: Of each thread.
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
