"""Progress of a run: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import closing
from typing import TypeVar

from tqdm import tqdm

from efficientad.names import printable

S = TypeVar("S", bound=Sized)
T = TypeVar("T")

_FIRST_LINE_AFTER, _LINE_EVERY = 1.0, 15.0
"""Seconds; the pauses between lines double from the first one."""

logger = logging.getLogger(__name__)


class Progress:
    """Shows how far a run is, how fast it goes, and how long it still takes.

    On a terminal as a bar; in a log as lines, the first after a second and then more
    and more rarely. A run without values that is over within a second logs nothing. The
    unit is a noun in the singular. The task is named where several runs follow each
    other.
    """

    def __init__(
        self, n_total: int, unit: str, *, n_done: int = 0, task: str | None = None
    ) -> None:
        self._n_total = n_total
        self._unit = unit
        self._task = task
        self._n_first: int | None = None
        self._started = 0.0
        self._last_line, self._pause = time.monotonic(), _FIRST_LINE_AFTER
        self._is_silent = True
        self._bar = (
            tqdm(
                desc=task and printable(task),
                total=n_total,
                initial=n_done,
                unit=unit,
                dynamic_ncols=True,
            )
            if _has_terminal()
            else None
        )

    def update(self, n_done: int, **values: float) -> None:
        """Show the count, with values such as the loss."""
        now = time.monotonic()
        if self._n_first is None:
            # The first step also prepares what the others use; the rate leaves it out.
            self._n_first, self._started = n_done, now
        if self._bar is not None:
            self._bar.set_postfix(_shown(values), refresh=False)
            self._bar.update(n_done - self._bar.n)
            return
        is_end = n_done >= self._n_total and (values or not self._is_silent)
        if now - self._last_line < self._pause and not is_end:
            return
        self._pause = min(2 * self._pause, _LINE_EVERY)
        self._last_line, self._is_silent = now, False
        logger.info(self._line(n_done, values, now))

    def _line(self, n_done: int, values: Mapping[str, float], now: float) -> str:
        parts = [f"{self._unit} {n_done} of {self._n_total}"]
        parts += [f"{name} {value}" for name, value in _shown(values).items()]
        assert self._n_first is not None
        if n_done > self._n_first and now > self._started:
            rate = (n_done - self._n_first) / (now - self._started)
            left = (self._n_total - n_done) / rate
            parts += [f"{rate:.2f} {self._unit}s/s", f"{left / 60:.1f} min left"]
        line = ", ".join(parts)
        return line if self._task is None else f"{self._task}: {line}"

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()


def tracked(items: Iterable[T], n: int, task: str) -> Iterator[T]:
    """Yield images, or what stands for them, and show how many of `n` are done."""
    for (item,) in with_progress(((item,) for item in items), n, task):
        yield item


def with_progress(batches: Iterable[S], n: int, task: str) -> Iterator[S]:
    """Yield batches, and show how many of `n` images are done."""
    n_done = 0
    with closing(Progress(n, "image", task=task)) as progress:
        for batch in batches:
            yield batch
            n_done += len(batch)
            progress.update(n_done)


def _has_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # a service has no such stream, or closed it
        return False


def _shown(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.4g}" for name, value in values.items()}
