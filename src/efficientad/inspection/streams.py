"""Predictions of many images: several at the same time, in the given order."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Annotated, Literal, overload

from efficientad.errors import ConfigError, ImageError
from efficientad.images.rgb import ColorOrder, ImageLike, Layout, Readable
from efficientad.inspection.prediction import Prediction, Predictions
from efficientad.inspection.predictor import Predictor
from efficientad.settings import BatchSize, Parallel, Range, checks_arguments
from efficientad.threads import in_order


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
    predict_batch = partial(predictor.predict_batch, color=color, layout=layout)
    batches = in_order(
        partial(_predicted, predict_batch),
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
    if len(batch) > 1:  # an open file can be read once only
        batch = [i.read() if isinstance(i, Readable) else i for i in batch]
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
