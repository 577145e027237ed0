"""Events of all replicas, by PostgreSQL's NOTIFY, so that each page shows all parts."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, func, select

from efficientad.station.errors import UnavailableError
from efficientad.station.storage.queries import Row
from efficientad.station.storage.store import Store

_CHANNEL: Final = "efficientad_events"
_MAX_BYTES: Final = 7999
"""Longest message that PostgreSQL takes."""
_WAIT_SECONDS: Final = 0.2
_PAUSE_SECONDS: Final = 1.0


class Relay:
    """Passes events to the other replicas, and theirs to a listener.

    Events are lost while the database is away; what they tell is in its tables.

    Args:
        store: Store with a PostgreSQL database.
        listener: Function that gets kind and content of each event, in another thread.
    """

    def __init__(self, store: Store, listener: Callable[[str, Row], None]) -> None:
        self._store, self._listener = store, listener
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="relay", daemon=True)
        self._thread.start()

    def send(self, kind: str, content: Row) -> None:
        """Pass an event of at most 8000 bytes on, in any thread."""
        message = json.dumps((self._store.replica, kind, content))
        if len(message) <= _MAX_BYTES:  # ASCII
            self._store.writer.submit(_notify, message)

    def close(self) -> None:
        """Listen no more."""
        self._is_closing.set()
        self._thread.join()

    def _serve(self) -> None:
        import psycopg  # noqa: PLC0415 - of an extra

        while not self._is_closing.is_set():
            with (
                suppress(UnavailableError, psycopg.OperationalError),
                self._store.database.connect() as connection,
            ):
                self._listen(connection)
            self._is_closing.wait(_PAUSE_SECONDS)

    def _listen(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        connection.detach()  # it closes at the end: nobody else gets what it hears
        driver.autocommit = True
        driver.execute(f"LISTEN {_CHANNEL}")
        while not self._is_closing.is_set():
            for notice in driver.notifies(timeout=_WAIT_SECONDS):
                replica, kind, content = json.loads(notice.payload)
                if replica != self._store.replica:
                    self._listener(kind, content)


def _notify(connection: Connection, message: str) -> None:
    connection.execute(select(func.pg_notify(_CHANNEL, message)))
