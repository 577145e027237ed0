"""Prefetch of training data: threads prepare the next steps while one is computed."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from efficientad.cores import usable_cores

T = TypeVar("T")

_MIN_PREFETCHED = 4
_MAX_THREADS = 16


class Prefetcher(Generic[T]):
    """Computes a function of 0, 1, 2 ... in threads, each a few numbers early.

    The result must depend on the number alone.

    Args:
        function: Function that is called in threads.
        start: First number that will be asked for.
        end: Number behind the last one.
    """

    def __init__(self, function: Callable[[int], T], start: int, end: int) -> None:
        self._function = function
        self._next, self._end = start, end
        n_threads = min(_MAX_THREADS, usable_cores())
        self._n_prefetched = max(_MIN_PREFETCHED, n_threads)
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="prefetch")
        self._results: deque[Future[T]] = deque()
        self.seconds_waited = 0.0
        """Time that `take` waited for results, the first call left out."""
        self._n_taken = 0

    def take(self) -> T:
        """Return the next result; an error of the function is raised here."""
        while len(self._results) < self._n_prefetched and self._next < self._end:
            self._results.append(self._threads.submit(self._function, self._next))
            self._next += 1
        started = time.perf_counter()
        result = self._results.popleft().result()
        if self._n_taken:
            self.seconds_waited += time.perf_counter() - started
        self._n_taken += 1
        return result

    def close(self) -> None:
        """End the threads and drop what they have not delivered."""
        self._threads.shutdown(wait=True, cancel_futures=True)
