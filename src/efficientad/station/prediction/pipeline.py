"""The station: from an image that has come to an inspection that is stored.

An answer exists when the image is in its place, the row is committed, and not before.
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from efficientad.errors import ImageError
from efficientad.station.config import StationConfig
from efficientad.station.errors import KeyReusedError, OverloadedError, UnavailableError
from efficientad.station.logs import logger
from efficientad.station.metrics import Metrics
from efficientad.station.prediction.admission import Admission, Rate
from efficientad.station.prediction.inspector import (
    Found,
    Job,
    Outcome,
    Refused,
    Undecided,
)
from efficientad.station.prediction.lineup import Lineup, OpenModel, open_model
from efficientad.station.reviewing.queue import queue_reason
from efficientad.station.storage import queries, recovery, registry, retention
from efficientad.station.storage.engine import open_database
from efficientad.station.storage.media import MediaStore
from efficientad.station.storage.queries import Row
from efficientad.station.storage.reviews import QUEUED
from efficientad.station.storage.writer import Writer

Listener = Callable[[str, Row], None]
"""Gets the kind of an event and its content, in any thread; it must not wait."""

_HOUSEKEEPING_SECONDS: Final = 60.0
_CHECK_SECONDS: Final = 1.0
_NO_OUTCOME: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An image that has come completely, in the folder of incoming ones."""

    number: str
    source: str
    sha256: str
    n_bytes: int
    first_bytes: bytes
    received_at: datetime
    key: str | None = None
    """Name that the source gave to this image; the same one gives the same answer."""
    captured_at: datetime | None = None
    part: str | None = None
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A stored inspection."""

    inspection: Row
    is_replay: bool = False
    """Whether it was stored for an earlier request with the same key."""


class Station:
    """Everything between the doors of a station and its disk."""

    def __init__(self, config: StationConfig, opener: OpenModel = open_model) -> None:
        """Open the data folder; the model is opened meanwhile.

        Raises:
            StorageError: If the data folder cannot be used.
        """
        self.config = config
        self.started_at = datetime.now(UTC)
        self.metrics = Metrics()
        self.log = logger().bind(station=config.name)
        self.database = open_database(config.data)
        self.media = MediaStore(
            config.data / "media",
            min_free_mb=config.min_free_mb,
            min_free_share=config.min_free_share,
        )
        self.writer = Writer(self.database.writing)
        self.lineup = Lineup(
            config, self.database, self.writer, self.media, self.report, opener
        )
        self.admission = Admission(config.max_places, config.latency_budget)
        self.rate = Rate(config.requests_per_second)
        self.listeners: list[Listener] = []
        self._pool = ThreadPoolExecutor(config.max_places + 4, "inspection")
        self._running: dict[tuple[str, str], tuple[str, Future[Answer]]] = {}
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._threads = [
            threading.Thread(target=self.lineup.start, name="opening", daemon=True),
            threading.Thread(target=self._housekeeping, name="house", daemon=True),
        ]

    def start(self) -> None:
        """Begin to open the model; `problem` is None as soon as images are taken."""
        now = datetime.now(UTC)
        tokens = [
            {"name": token.name, "role": token.role, "hash": token.sha256}
            for token in self.config.tokens
        ]
        self.media.forget_incoming()
        self.media.check()
        self.writer.run(partial(registry.set_tokens, tokens=tokens, now=now))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what was begun, for some seconds, and end all threads."""
        self._is_closing.set()
        self._pool.shutdown()
        for thread in self._threads:
            thread.join()
        self.lineup.close()
        self.writer.close()
        self.database.close()

    @property
    def problem(self) -> str | None:
        """Reason why no image can be taken now, or None."""
        if self._is_closing.is_set():
            return "the station is stopping"
        if not self.writer.is_up:
            return "the database cannot be written"
        return self.media.problem or self.lineup.problem

    def enter(self, source: str, client: str = "") -> None:
        """Take a place for an image, before it is read.

        Raises:
            OverloadedError: If there is none, or the client is over its rate.
            UnavailableError: If no image can be taken now.
        """
        if (problem := self.problem) is not None:
            raise UnavailableError(problem)
        try:
            self.rate.take(client)
            self.admission.take(self.lineup.service_seconds(source))
        except OverloadedError:
            self.metrics.shed.labels(source).inc()
            raise
        self.metrics.queue.set(self.admission.n_taken)

    def leave(self) -> None:
        """Release a place."""
        self.admission.release()
        self.metrics.queue.set(self.admission.n_taken)

    def submit(self, arrival: Arrival) -> "Future[Answer]":
        """Return the future answer to an image, whose place it releases.

        Its exception is `ImageError` for an unusable image, `KeyReusedError` if the key
        was used for another one, and `UnavailableError` if it could not be stored.
        """
        name = None if arrival.key is None else (arrival.source, arrival.key)
        with self._lock:
            if name in self._running:
                sha256, running = self._running[name]
                return self._joined(arrival, sha256, running)
            future = self._pool.submit(self._inspect, arrival)
            if name is not None:
                self._running[name] = (arrival.sha256, future)
        future.add_done_callback(lambda _: self._end(name))
        return future

    def report(self, kind: str, detail: str) -> None:
        """Write an incident, and tell everybody who listens."""
        self.log.warning("incident", kind=kind, detail=detail)
        now = datetime.now(UTC)
        incident = self.writer.submit(
            partial(queries.add_incident, kind=kind, at=now, detail=detail)
        )

        def tell(done: "Future[Row]") -> None:
            if done.exception() is None:
                self.tell("incident", done.result())

        incident.add_done_callback(tell)

    def tell(self, kind: str, content: Row) -> None:
        """Pass an event on to everybody who listens."""
        for listener in tuple(self.listeners):
            listener(kind, content)

    def _joined(
        self, arrival: Arrival, sha256: str, running: "Future[Answer]"
    ) -> "Future[Answer]":
        """Return the answer of the same image, which is being inspected."""
        self.media.incoming(arrival.number).unlink(missing_ok=True)
        self.leave()
        joined: Future[Answer] = Future()
        if sha256 != arrival.sha256:
            joined.set_exception(_key_reused(arrival))
            return joined

        def finish(done: "Future[Answer]") -> None:
            error = done.exception()
            if error is not None:
                joined.set_exception(error)
            else:
                joined.set_result(Answer(done.result().inspection, is_replay=True))

        running.add_done_callback(finish)
        return joined

    def _end(self, name: tuple[str, str] | None) -> None:
        if name is not None:
            with self._lock:
                del self._running[name]
        self.leave()

    def _inspect(self, arrival: Arrival) -> Answer:
        part = self.media.incoming(arrival.number)
        try:
            if arrival.key is not None:
                with self.database.connect() as connection:
                    known = queries.inspection_by_key(
                        connection, arrival.source, arrival.key
                    )
                if known is not None:
                    if known["sha256"] != arrival.sha256:
                        raise _key_reused(arrival)
                    return Answer(known, is_replay=True)
            return Answer(self._stored(arrival, part))
        finally:
            part.unlink(missing_ok=True)

    def _stored(self, arrival: Arrival, part: Path) -> Row:
        start = time.perf_counter()
        place = self.media.place(
            arrival.number, arrival.first_bytes, arrival.received_at
        )
        paths = (part, self.media.path(place))
        max_pixels = self.config.max_megapixels * 10**6
        future, rule = self.lineup.submit(
            arrival.source, lambda rule: Job(arrival.number, paths, rule, max_pixels)
        )
        self.media.keep(part, place)
        store_ms = 1000 * (time.perf_counter() - start)
        outcome: Outcome
        try:
            outcome = future.result(_NO_OUTCOME)
        except FutureTimeoutError:
            outcome = Undecided(f"nothing was predicted within {_NO_OUTCOME:g} seconds")
        if isinstance(outcome, Refused):
            self.media.remove(place)
            raise ImageError(outcome.reason)
        total_ms = 1000 * (time.perf_counter() - start)
        row: Row = {
            "id": arrival.number,
            "source": arrival.source,
            "source_key": arrival.key,
            "received_at": arrival.received_at,
            "captured_at": arrival.captured_at,
            "part": arrival.part,
            "sha256": arrival.sha256,
            "model": rule.model,
            "rule": rule.id,
            "expected": arrival.expected,
            "store_ms": store_ms,
            "media_state": "stored",
            "media_path": place,
            "media_bytes": arrival.n_bytes,
            "replica": self.config.name,
        }
        artifacts: dict[str, Any] = {}
        regions: tuple[Row, ...] = ()
        if isinstance(outcome, Found):
            values = asdict(outcome)
            regions = values.pop("regions")
            artifacts = {name: values.pop(name) for name in ("grids", "thumbnail")}
            row |= values
            row["wait_ms"] = max(0.0, total_ms - outcome.decode_ms - outcome.predict_ms)
        else:
            row |= {"decision": "undecided", "error": outcome.reason}
        reason = queue_reason(
            row["id"],
            row["decision"],
            row.get("masked_score"),
            rule.threshold,
            self.config.review_share,
        )
        row["review_state"] = None if reason is None else QUEUED
        stored = self.writer.run(
            partial(
                queries.insert_inspection,
                inspection=row,
                regions=regions,
                artifacts=artifacts,
                sinks=self.config.sinks,
            )
        )
        self._count(stored)
        return stored

    def _count(self, stored: Row) -> None:
        metrics = self.metrics
        metrics.inspections.labels(stored["source"], stored["decision"]).inc()
        metrics.last_stored.set(stored["received_at"].timestamp())
        for stage in ("wait", "decode", "predict", "store"):
            if (taken := stored[f"{stage}_ms"]) is not None:
                metrics.stage.labels(stage).observe(taken / 1000)
        self.log.info(
            "inspection",
            id=stored["id"],
            source=stored["source"],
            decision=stored["decision"],
            score=stored["image_score"],
        )
        self.tell("inspection", stored)

    def _housekeeping(self) -> None:
        next_round = 0.0
        with suppress(UnavailableError):
            self._recover()
        while not self._is_closing.wait(_CHECK_SECONDS):
            self.media.check()
            if time.monotonic() >= next_round and self.writer.is_up:
                next_round = time.monotonic() + _HOUSEKEEPING_SECONDS
                with suppress(UnavailableError):
                    retention.remove_old(
                        self.database,
                        self.writer,
                        self.media,
                        self.config.retention,
                        datetime.now(UTC),
                    )

    def _recover(self) -> None:
        n_removed, missing = recovery.unanswered_and_missing(
            self.database, self.media, self.started_at
        )
        if n_removed:
            self.log.info("removed what was never answered", n=n_removed)
        if missing:
            detail = f"{len(missing)} images are missing: {json.dumps(missing[:20])}"
            self.report("images_missing", detail)
            self.writer.run(partial(queries.mark_removed, numbers=missing))


def _key_reused(arrival: Arrival) -> KeyReusedError:
    return KeyReusedError(
        f"a key names one image of a source, {arrival.key} was used for another one; "
        "give each image its own key"
    )
