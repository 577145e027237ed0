"""Predictions of many images: several at the same time, in the given order.

Images are read from their source only as places become free, so a source of any length
needs constant memory. They are read in a thread of their own, so a result never waits
for the next image: a camera may wait for the decision before it moves on.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Annotated, Final, Literal, TypeVar, overload

from efficientad.errors import ConfigError, ImageError
from efficientad.images.rgb import ColorOrder, ImageLike, Layout
from efficientad.inspection.prediction import Prediction, Predictions
from efficientad.inspection.predictor import Predictor
from efficientad.settings import BatchSize, Parallel, Range, checks_arguments

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# A source that is being read cannot be interrupted: it may be a camera that gives an
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
    color: ColorOrder = "rgb",
    layout: Layout = "hwc",
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
    color: ColorOrder = "rgb",
    layout: Layout = "hwc",
) -> Generator[Prediction | ImageError, None, None]: ...


@checks_arguments
def predictions(
    predictor: Predictor,
    images: Iterable[ImageLike],
    *,
    n_streams: Parallel = 1,
    batch_size: BatchSize = 1,
    n_waiting: Annotated[int, Range(0, 10_000)] | None = None,
    gives_errors: bool = False,
    color: ColorOrder = "rgb",
    layout: Layout = "hwc",
) -> Generator[Prediction | ImageError, None, None]:
    """Predict images as they come.

    Each prediction is given as soon as it and those before it are done, also while the
    source waits. Where the source waits for answers, as a line does that moves on after
    the decision, leave `batch_size` at 1: a batch is predicted when it is full, or the
    source at its end.

    Closing the generator, or dropping it, ends its threads. If the source is being read
    then, that is waited for, up to a second; the image is thrown away.

    Args:
        predictor: Model to predict with.
        images: Images of any sizes, also endlessly many; arrays are RGB unless `color`
            says otherwise. They are read in a thread of their own, from the first
            prediction that is asked for.
        n_streams: Predictions at the same time, from 1 to 1024; more than one needs an
            engine that takes calls from several threads.
        batch_size: Images of one prediction, from 1 to 1024.
        n_waiting: Batches prefetched beside those being predicted, from 0 to 10 000.
            None: one a stream.
            At most `n_streams + n_waiting` are read whose predictions the caller is not
            done with; with 1 and 0 an image is read when the next prediction is asked
            for, so a live camera's is not old.
        gives_errors: Yield an `ImageError` in the place of an image that cannot be read
            or used, and go on. Otherwise it is raised and ends everything; prefetched
            images are then lost.
        color: Order of the channels of arrays: `rgb`, or `bgr` as OpenCV reads.
        layout: Order of the axes of arrays: `hwc`, or `chw` as in most tensors.

    Yields:
        One prediction an image, in the order of the images.

    Raises:
        ConfigError: If a number is outside its range, or the predictor takes one call
            at a time.
        ImageError: If an image cannot be read or used, unless `gives_errors`. As with
            an exception of the source, all images before it are predicted first.
    """
    require_streams(predictor, n_streams)
    batches = in_order(
        partial(
            _predicted, partial(predictor.predict_batch, color=color, layout=layout)
        ),
        _batches(images, batch_size),
        n_streams=n_streams,
        n_waiting=n_waiting,
    )
    return _each(batches, gives_errors=gives_errors)


def require_streams(predictor: Predictor, n_streams: int) -> None:
    """Raise `ConfigError` for several streams if an engine takes one call at a time."""
    if n_streams > 1 and not predictor.engine.is_concurrent:
        raise ConfigError(
            f"{n_streams} streams need an engine that takes several calls at once, "
            "got one that does not; use 1 stream, or another engine"
        )


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


def _batches(images: Iterable[ImageLike], size: int) -> Iterator[list[ImageLike]]:
    """Yield images in lists; those before an exception come before it."""
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
    predict_batch: Callable[[list[ImageLike]], Predictions], batch: list[ImageLike]
) -> Sequence[Prediction | ImageError]:
    """Return the predictions of a batch; if an image is at fault, each alone."""
    try:
        return predict_batch(batch)
    except ImageError as error:
        if len(batch) == 1:
            return [error]
        return [_predicted(predict_batch, [image])[0] for image in batch]


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
