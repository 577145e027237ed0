"""Many images through one predictor: several at the same time, in the given order.

Images are taken from their source only as places become free, so a source of any length
needs constant memory. They are taken in a thread of their own, so a result never waits
for the next image: a camera may wait for the decision before it moves on.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any, Final, Literal, TypeVar, overload

from efficientad.errors import ConfigError, ImageError
from efficientad.images.rgb import ImageLike
from efficientad.inspection.predictor import Predictor
from efficientad.method.decision import Prediction

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# A source that is being read can only be waited for: it may be a camera that gives an
# image soon, or one that waits for an answer that will not come.
_SECONDS_TO_END: Final = 1.0


@overload
def predictions(
    predictor: Predictor,
    images: Iterable[ImageLike],
    *,
    n_streams: int = 1,
    batch_size: int = 1,
    n_waiting: int | None = None,
    gives_errors: Literal[False] = False,
) -> Generator[Prediction, None, None]: ...


@overload
def predictions(
    predictor: Predictor,
    images: Iterable[ImageLike],
    *,
    n_streams: int = 1,
    batch_size: int = 1,
    n_waiting: int | None = None,
    gives_errors: Literal[True],
) -> Generator[Prediction | ImageError, None, None]: ...


def predictions(
    predictor: Predictor,
    images: Iterable[ImageLike],
    *,
    n_streams: int = 1,
    batch_size: int = 1,
    n_waiting: int | None = None,
    gives_errors: bool = False,
) -> Generator[Prediction | ImageError, None, None]:
    """Predict images as they come.

    Each prediction is given as soon as it and those before it are done, also while the
    source waits. Where the source waits for answers, as a line does that moves on after
    the decision, leave `batch_size` at 1: a batch is predicted when it is full, or the
    source at its end.

    Closing the generator, or dropping it, ends its threads. A source that is being read
    then is waited for, up to a second; what it gives is thrown away.

    Args:
        predictor: Model to predict with.
        images: Of any sizes; may be endless. Read in a thread of their own, from the
            first prediction that is asked for.
        n_streams: Predictions at the same time; more than one needs an engine that
            takes calls from several threads.
        batch_size: Images of one prediction.
        n_waiting: Batches prefetched beside those being predicted. None: one a stream.
            At most `n_streams + n_waiting` are read whose predictions the caller is not
            done with; with 1 and 0 an image is read when the next prediction is asked
            for, so a live camera's is not old.
        gives_errors: Give an image that cannot be read or used as an `ImageError` in
            its place, and go on. Otherwise it is raised and ends everything; images
            that were read ahead are then lost.

    Yields:
        One prediction an image, in the order of the images.

    Raises:
        ConfigError: If a number is too small, or the predictor takes one call at a
            time.
        ImageError: If an image cannot be read or used, unless these are given; all
            images before it were. So it is with what the source raises: all images it
            gave are predicted and given before.
    """
    require_concurrent(predictor, n_streams)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    batches = _batches(images, batch_size)
    found = in_order(
        partial(_predicted, predictor),
        batches,
        n_streams=n_streams,
        n_waiting=n_waiting,
    )
    return _each(found, gives_errors=gives_errors)


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
        pieces: Taken one by one, in a thread of their own.
        n_streams: Threads, at least 1.
        n_waiting: Pieces taken ahead beside those being worked on, at least 0. None:
            one a thread. A piece counts until the caller asks for the next result.

    Yields:
        The results, in the order of the pieces, each as soon as it is done; what the
        source raises comes after them.

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
    """Reject several streams where the engine takes one call at a time.

    Raises:
        ConfigError: If that is asked for.
    """
    if n_streams > 1 and not predictor.engine.is_concurrent:
        raise ConfigError(
            f"{n_streams} streams need an engine that takes several calls at once, "
            "got one that does not; use 1 stream, or another engine"
        )


def _in_order(
    function: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    n_streams: int,
    n_places: int,
) -> Generator[Result, None, None]:
    under_way: SimpleQueue[Future[Result] | None] = SimpleQueue()
    places, is_closed = Semaphore(n_places), Event()
    pool = ThreadPoolExecutor(n_streams)

    def feed() -> None:
        try:
            source = iter(pieces)
            while places.acquire() and not is_closed.is_set():
                under_way.put(pool.submit(function, next(source)))
        except StopIteration:
            under_way.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            under_way.put(_failed(error))

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


def _failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _batches(images: Iterable[ImageLike], size: int) -> Iterator[list[ImageLike]]:
    """Part images into lists; those before an exception are given before it is."""
    source = iter(images)
    while True:
        batch: list[ImageLike] = []
        try:
            for image in islice(source, size):
                batch.append(image)  # noqa: PERF402 - keeps what came before an exception
        finally:
            if batch:
                yield batch
        if not batch:
            return


def _predicted(
    predictor: Predictor, batch: list[ImageLike]
) -> Sequence[Prediction | ImageError]:
    """Predict a batch; where an image of it is at fault, each alone."""
    try:
        return predictor.predict_batch(batch)
    except ImageError as error:
        if len(batch) == 1:
            return [error]
        return [_predicted(predictor, [image])[0] for image in batch]


def _each(
    batches: Generator[Sequence[Prediction | ImageError], None, None],
    *,
    gives_errors: bool,
) -> Generator[Prediction | ImageError, None, None]:
    with closing(batches):
        for batch in batches:
            for found in batch:
                if isinstance(found, ImageError) and not gives_errors:
                    raise found
                yield found
