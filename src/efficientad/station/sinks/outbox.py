"""Delivery from the outbox: at least once, in order, for as long as it takes."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol, runtime_checkable

from efficientad.station.errors import UnavailableError
from efficientad.station.storage import outbox
from efficientad.station.storage.queries import Row
from efficientad.station.storage.store import Store

_AT_ONCE: Final = 50
_IDLE_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 30.0


class RefusedError(Exception):
    """The receiver refuses one entry; it takes others."""


@runtime_checkable
class Sink(Protocol):
    """A receiver of inspections."""

    name: str

    def deliver(self, payload: dict[str, Any]) -> None:
        """Deliver an inspection; return when the receiver has it.

        Raises:
            OSError: If the receiver cannot be reached.
            RefusedError: If it refuses this inspection.
        """

    def close(self) -> None:
        """Disconnect."""


class Delivery:
    """Delivers to one sink, in a thread of its own."""

    def __init__(self, sink: Sink, store: Store, log: Callable[..., None]) -> None:
        self._sink = sink
        self._store, self._writer = store, store.writer
        self._lease = f"sink {sink.name}"
        self._log = log
        self._is_closing = threading.Event()
        self._has_news = threading.Event()
        self._n_failures = 0
        self._thread = threading.Thread(
            target=self._serve, name=f"sink {sink.name}", daemon=True
        )
        self._thread.start()

    def wake(self, _kind: str, _content: Row) -> None:
        """Look at the outbox now."""
        self._has_news.set()

    def close(self) -> None:
        """End the thread; what is not delivered is so after the next start."""
        self._is_closing.set()
        self._has_news.set()
        self._thread.join()
        self._sink.close()

    def _serve(self) -> None:
        while not self._is_closing.is_set():
            self._has_news.wait(_IDLE_SECONDS)
            self._has_news.clear()
            try:
                while self._deliver_some():
                    pass
            except UnavailableError:  # delivered again later: at least once
                self._is_closing.wait(_IDLE_SECONDS)

    def _deliver_some(self) -> bool:
        """Deliver what is due, and return whether there may be more.

        One replica does so at a time: two would deliver out of order.
        """
        if not self._store.holds(self._lease):
            return False
        now = datetime.now(UTC)
        entries = self._store.database.read(outbox.due, self._sink.name, now, _AT_ONCE)
        done: list[str] = []
        is_reached = True
        for entry in entries:
            if self._is_closing.is_set() or not self._store.holds(self._lease):
                break
            try:
                self._sink.deliver(entry["payload"])
                done.append(entry["id"])
            except (OSError, RefusedError) as error:
                self._fail(entry, error)
                is_reached = isinstance(error, RefusedError)
                if not is_reached:
                    break
        if done:
            self._n_failures = 0
            self._writer.run(outbox.delivered, done)
        if not is_reached:
            self._n_failures += 1
            pause = min(_LONGEST_PAUSE, 2.0 ** min(self._n_failures, 10) / 4)
            self._is_closing.wait(pause)
        return is_reached and len(entries) == _AT_ONCE

    def _fail(self, entry: Row, error: Exception) -> None:
        is_refused = isinstance(error, RefusedError)
        if entry["attempts"] == 0 or is_refused:
            self._log("not delivered", sink=self._sink.name, error=str(error))
        self._writer.run(outbox.failed, entry, str(error), is_refused=is_refused)
