"""Pieces of work in several threads, with their results in order.

Pieces are read from their source only as places become free, so a source of any length
needs constant memory. They are read in a thread of their own, so a result never waits
for the next piece: a camera may wait for the decision before it moves on.
"""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Final, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# A source that is being read cannot be interrupted: it may be a camera that gives an
# image soon, or one that waits for an answer that will not come.
_SECONDS_TO_END: Final = 1.0


def in_order(
    function: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    *,
    n_streams: int,
    n_waiting: int | None = None,
) -> Generator[Result, None, None]:
    """Apply a function to pieces of work in several threads.

    Args:
        function: Function that several threads may call at once if there are several.
        pieces: Pieces of work, read one by one in a thread of their own.
        n_streams: Threads, at least 1.
        n_waiting: Pieces prefetched beside those being worked on, at least 0. None: one
            a thread. A piece counts until the caller asks for the next result.

    Yields:
        The results, in the order of the pieces, each as soon as it is done; an
        exception of the source is raised after them.
    """
    under_way: SimpleQueue[Future[Result] | None] = SimpleQueue()
    places = Semaphore(n_streams + (n_streams if n_waiting is None else n_waiting))
    is_closed = Event()
    pool = ThreadPoolExecutor(n_streams)

    def feed() -> None:
        try:
            source = iter(pieces)
            while places.acquire() and not is_closed.is_set():
                under_way.put(pool.submit(function, next(source)))
        except StopIteration:
            under_way.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            failed: Future[Result] = Future()
            failed.set_exception(error)
            under_way.put(failed)

    feeder = Thread(target=feed, name="feeder", daemon=True)
    feeder.start()
    try:
        while (oldest := under_way.get()) is not None:
            yield oldest.result()
            del oldest  # else its result stays while the next one is awaited
            places.release()
    finally:
        is_closed.set()
        places.release()
        pool.shutdown(cancel_futures=True)
        feeder.join(_SECONDS_TO_END)
