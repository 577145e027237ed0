"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

_LINE_EVERY_SECONDS = 15.0


class Progress:
    """Shows how far a run is, how fast, and how long it still takes.

    On a terminal as a bar; in a log file as a plain line every 15 seconds, so that logs
    stay readable.
    """

    def __init__(self, n_total: int, unit: str, *, n_done: int = 0) -> None:
        self._n_total = n_total
        self._unit = unit
        self._n_first: int | None = None
        self._started = 0.0
        self._last_line = float("-inf")
        self._bar = (
            tqdm(total=n_total, initial=n_done, unit=unit, dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )

    def update(self, n_done: int, **values: float) -> None:
        """Tell how much is done, with values to show, such as the loss."""
        if self._n_first is None:
            # The first step holds what starts slowly; the rate leaves it out.
            self._n_first, self._started = n_done, time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix(_shown(values), refresh=False)
            self._bar.update(n_done - self._bar.n)
            return
        now = time.monotonic()
        is_last = n_done >= self._n_total
        if now - self._last_line < _LINE_EVERY_SECONDS and not is_last:
            return
        self._last_line = now
        shown = ", ".join(f"{k} {v}" for k, v in _shown(values).items())
        text = f"{self._unit} {n_done} of {self._n_total}, {shown}"
        if n_done > self._n_first:
            rate = (n_done - self._n_first) / (now - self._started)
            left = (self._n_total - n_done) / rate
            text += f", {rate:.2f} {self._unit}s/s, {left / 60:.1f} min left"
        self.note(text)

    def note(self, text: str) -> None:
        """Print one line."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - the progress itself

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()


def _shown(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.4g}" for name, value in values.items()}
