"""The one thread that writes to the database.

All jobs that wait share one commit: it takes the disk as long as that of one job. Each
is a savepoint, so that the failure of one leaves the others.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from efficientad.station.errors import UnavailableError
from efficientad.station.storage.engine import Database, P, R, Work, first_line

_Job = tuple[Callable[[Connection], Any], "Future[Any]"]
_PROBE_SECONDS: Final = 1.0
_MAX_JOBS: Final = 256


class Writer:
    """Runs jobs in transactions, in the order in which they come."""

    def __init__(self, database: Database) -> None:
        self._engine = database.writing
        self._probe = database.probe
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._connection: Connection | None = None
        self._is_over = False
        self.is_up = True
        """Whether the last commit succeeded."""
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)
        self._thread.start()

    def submit(
        self, work: Work[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> "Future[R]":
        """Return the future result of a job, called with these arguments.

        It is done when the job is on the disk. Its exception is `UnavailableError` if
        the database cannot be written.
        """
        future: Future[R] = Future()
        self._jobs.put((lambda c: work(c, *args, **kwargs), future))
        if self._is_over:
            self._refuse()
        return future

    def run(self, work: Work[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result of a job on the disk, or raise `UnavailableError`."""
        return self.submit(work, *args, **kwargs).result()

    def close(self) -> None:
        """Write what waits and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while True:
            jobs, is_last = self._waiting()
            try:
                self._commit(jobs)
            except (SQLAlchemyError, OSError) as error:
                self._lose(jobs, error)
            if is_last:
                self._disconnect()
                self._is_over = True
                self._refuse()
                return

    def _refuse(self) -> None:
        """Fail the jobs that come after the end."""
        with suppress(Empty):
            while True:
                if (job := self._jobs.get_nowait()) is not None:
                    job[1].set_exception(UnavailableError("the station is stopping"))

    def _waiting(self) -> tuple[list[_Job], bool]:
        """Return all jobs that wait, and whether they are the last ones."""
        jobs: list[_Job] = []
        try:
            job = self._jobs.get(timeout=None if self.is_up else _PROBE_SECONDS)
            while job is not None:
                jobs.append(job)
                if len(jobs) == _MAX_JOBS:
                    return jobs, False
                job = self._jobs.get_nowait()
        except Empty:
            return jobs, False
        return jobs, True

    def _commit(self, jobs: list[_Job]) -> None:
        connection = self._connection = self._connection or self._engine.connect()
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        with connection.begin():
            if not self.is_up:  # a full disk lets a transaction begin
                connection.exec_driver_sql(self._probe)
            for work, future in jobs:
                try:
                    with connection.begin_nested():
                        outcomes.append((future, work(connection), None))
                except Exception as error:  # raised again where it is awaited
                    is_ours = isinstance(error, DataError | IntegrityError)
                    if isinstance(error, DBAPIError) and not is_ours:
                        raise
                    outcomes.append((future, None, error))
        self.is_up = True
        for future, result, failure in outcomes:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _lose(self, jobs: list[_Job], error: Exception) -> None:
        """Forget the connection: after a failed fsync its pages cannot be trusted."""
        self.is_up = False
        self._disconnect()
        reason = first_line(error)
        for _, future in jobs:
            future.set_exception(
                UnavailableError(f"the database cannot be written ({reason})")
            )

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(SQLAlchemyError, OSError):
                self._connection.invalidate()
                self._connection.close()
        self._connection = None
