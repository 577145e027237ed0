"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

_FIRST_LINE_AFTER, _LINE_EVERY = 1.0, 15.0
"""Seconds; the pauses between lines double from the first one."""


class Progress:
    """Shows how far a run is, how fast, and how long it still takes.

    On a terminal as a bar; in a log file as plain lines, the first after a second and
    then more and more rarely, so that logs stay readable. What has no values to show
    and is over at once is not worth a line.

    Args:
        n_total: When it is done.
        unit: What is counted, in the singular.
        n_done: What an earlier sitting has done.
        task: What happens, where one thing after the other does.
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
                desc=task, total=n_total, initial=n_done, unit=unit, dynamic_ncols=True
            )
            if sys.stderr.isatty()
            else None
        )

    def update(self, n_done: int, **values: float) -> None:
        """Tell how much is done, with values to show, such as the loss."""
        now = time.monotonic()
        if self._n_first is None:
            # The first step holds what starts slowly; the rate leaves it out.
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
        self.note(self._line(n_done, values, now))

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

    def note(self, text: str) -> None:
        """Print one line."""
        tell(text)

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()


def tell(text: str) -> None:
    """Print a line where progress is shown, above a bar where there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def _shown(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.4g}" for name, value in values.items()}
