"""Many images through one predictor: several at the same time, in the given order.

Images are taken from their source only as places become free, so a source of any length
needs constant memory.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from efficientad.errors import ConfigError
from efficientad.images import ImageLike
from efficientad.method.decision import Prediction
from efficientad.method.predictor import Predictor

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def predictions(
    predictor: Predictor,
    images: Iterable[ImageLike],
    *,
    n_streams: int = 1,
    batch_size: int = 1,
    n_waiting: int | None = None,
) -> Iterator[Prediction]:
    """Judge images as they come.

    Args:
        predictor: A detector, or any other predictor.
        images: Of any sizes; may be endless.
        n_streams: Predictions at the same time; more than one needs a predictor that
            may be called from several threads at once, as exported ones may.
        batch_size: Images of one prediction.
        n_waiting: Batches read ahead beside those being judged. None: one a stream.

    Yields:
        One prediction an image, in the order of the images.

    Raises:
        ConfigError: If a number is too small, or the predictor takes one call at a
            time.
        ImageError: If an image cannot be read or used; the batches before it were
            given.
    """
    require_concurrent(predictor, n_streams)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    batches = _batches(images, batch_size)
    judged = in_order(
        predictor.predict_batch, batches, n_streams=n_streams, n_waiting=n_waiting
    )
    return (prediction for batch in judged for prediction in batch)


def in_order(
    function: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    *,
    n_streams: int,
    n_waiting: int | None = None,
) -> Generator[Result, None, None]:
    """Apply a function to pieces of work in several threads.

    Args:
        function: May be called from several threads at once where there are several.
        pieces: Taken one by one, in the thread of the caller.
        n_streams: Threads, at least 1.
        n_waiting: Pieces taken ahead beside those being worked on, at least 0. None:
            one a thread.

    Yields:
        The results, in the order of the pieces.

    Raises:
        ConfigError: If a number is too small.
    """
    n_waiting = n_streams if n_waiting is None else n_waiting
    if n_streams < 1 or n_waiting < 0:
        raise ConfigError(
            "needed at least 1 stream and at least 0 waiting pieces, got "
            f"{n_streams} and {n_waiting}"
        )
    return _in_order(function, pieces, n_streams, n_streams + n_waiting)


def require_concurrent(predictor: Predictor, n_streams: int) -> None:
    """Refuse several streams where a predictor takes one call at a time.

    Raises:
        ConfigError: If it does.
    """
    if n_streams > 1 and not getattr(predictor, "is_concurrent", False):
        raise ConfigError(
            f"{n_streams} streams need a predictor that takes several calls at once, "
            "got one that does not; use 1 stream, or an exported file"
        )


def _in_order(
    function: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    n_streams: int,
    n_places: int,
) -> Generator[Result, None, None]:
    source = iter(pieces)
    under_way: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(n_streams)
    try:
        under_way.extend(pool.submit(function, p) for p in islice(source, n_places))
        while under_way:
            result = under_way.popleft().result()
            under_way.extend(pool.submit(function, p) for p in islice(source, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(images: Iterable[ImageLike], size: int) -> Iterator[list[ImageLike]]:
    source = iter(images)
    while batch := list(islice(source, size)):
        yield batch
