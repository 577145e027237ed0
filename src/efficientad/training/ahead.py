"""Data of the next steps, made in threads while the present step computes."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from efficientad.cores import usable_cores

T = TypeVar("T")

_LEAST_AHEAD = 4
_MOST_THREADS = 16


class Ahead(Generic[T]):
    """Gives what a function makes of 0, 1, 2 ..., each a few numbers before its turn.

    The function must depend on the number alone, so that being early changes nothing.

    Args:
        make: Called in threads.
        start: First number that will be asked for.
        end: Number behind the last one.
    """

    def __init__(self, make: Callable[[int], T], start: int, end: int) -> None:
        self._make = make
        self._next, self._end = start, end
        n_threads = min(_MOST_THREADS, usable_cores())
        self._n_ahead = max(_LEAST_AHEAD, n_threads)
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="ahead")
        self._made: deque[Future[T]] = deque()
        self.seconds_waited = 0.0
        """Time that `take` had to wait for data, the first call left out."""
        self._n_taken = 0

    def take(self) -> T:
        """Give the next one; what the function raised is raised here."""
        while len(self._made) < self._n_ahead and self._next < self._end:
            self._made.append(self._threads.submit(self._make, self._next))
            self._next += 1
        started = time.perf_counter()
        made = self._made.popleft().result()
        if self._n_taken:
            self.seconds_waited += time.perf_counter() - started
        self._n_taken += 1
        return made

    def close(self) -> None:
        """End the threads; what they still make is thrown away."""
        self._threads.shutdown(wait=True, cancel_futures=True)
