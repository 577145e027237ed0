"""Prefetch of training data: threads prepare the next steps while one is computed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from efficientad.cores import usable_cores

S = TypeVar("S")
T = TypeVar("T")

_MIN_PREFETCHED = 4
_MAX_THREADS = 16


def prefetched(
    function: Callable[[S], T], arguments: Iterable[S]
) -> Generator[T, None, None]:
    """Yield the results of a function in order, each computed early in a thread.

    An error of the function is raised in its place.

    Args:
        function: Function whose result depends on its argument alone.
        arguments: Arguments of the calls; there may be no end of them.
    """
    n_threads = min(_MAX_THREADS, usable_cores())
    threads = ThreadPoolExecutor(n_threads, thread_name_prefix="prefetch")
    results: deque[Future[T]] = deque()
    try:
        for argument in arguments:
            results.append(threads.submit(function, argument))
            if len(results) == max(_MIN_PREFETCHED, n_threads):
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
