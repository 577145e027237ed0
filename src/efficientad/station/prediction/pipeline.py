"""The station: from an image that has come to an inspection that is stored.

An answer exists when the image is in its place, the row is committed, and not before.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

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
from efficientad.station.prediction.records import Answer, Arrival, record_of
from efficientad.station.storage import jobs, queries, registry
from efficientad.station.storage.queries import Row
from efficientad.station.storage.store import open_store
from efficientad.station.watching.housekeeping import keep_house, recover

Listener = Callable[[str, Row], None]
"""Gets the kind of an event and its content, in any thread; it must not wait."""

_NO_OUTCOME: Final = 30.0
_BUSY_SECONDS: Final = 0.02
_DOWN_SECONDS: Final = 0.5


class Station:
    """Everything between the doors of a station and its disk."""

    def __init__(self, config: StationConfig, opener: OpenModel = open_model) -> None:
        """Open the data folder, or raise `StorageError`; the model follows."""
        self.config = config
        self.started_at = datetime.now(UTC)
        self.metrics = Metrics()
        self.log = logger().bind(station=config.name)
        self.store = open_store(config)
        self.database, self.writer, self.media, self.replica = self.store
        self.lineup = Lineup(config, self.store, self.report, opener)
        self.admission = Admission(config.max_places, config.latency_budget)
        self.rate = Rate(config.requests_per_second)
        self.listeners: list[Listener] = []
        self._pool = ThreadPoolExecutor(config.max_places + 4, "inspection")
        self._running: dict[tuple[str, str], tuple[str, Future[Answer]]] = {}
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        house = (self.store, config.retention, self.tell)
        self._threads = [
            threading.Thread(target=work, args=args, name=name, daemon=True)
            for name, work, args in (
                ("opening", self.lineup.start, (self._is_closing,)),
                ("house", keep_house, (*house, self._is_closing)),
                ("recovery", recover, (self.store, self.report, self._is_closing)),
            )
        ]

    def start(self) -> None:
        """Begin to open the model; `problem` is None as soon as images are taken."""
        tokens = [
            {"name": token.name, "role": token.role, "hash": token.sha256}
            for token in self.config.tokens
        ]
        self.media.forget_incoming()
        self.media.check()
        self.writer.run(registry.set_tokens, tokens)
        self.writer.run(jobs.end_interrupted)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what was begun, for some seconds, and end all threads."""
        self._is_closing.set()
        self.lineup.interrupt()
        self._pool.shutdown()
        for thread in self._threads:
            thread.join()
        self.lineup.close()
        self.store.close()

    @property
    def is_closing(self) -> bool:
        """Whether the station is stopping."""
        return self._is_closing.is_set()

    @property
    def problem(self) -> str | None:
        """Reason why no image can be taken now, or None."""
        if self.is_closing:
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
            self._take_place(source)
        except OverloadedError:
            self.metrics.shed.labels(source).inc()
            raise

    def wait_for_place(self, source: str, is_closing: threading.Event) -> bool:
        """Wait for a place, and return whether one comes before the source closes."""
        while not is_closing.is_set():
            if self.problem is not None:
                is_closing.wait(_DOWN_SECONDS)
                continue
            with suppress(OverloadedError):
                self._take_place(source)
                return True
            is_closing.wait(_BUSY_SECONDS)
        return False

    def leave(self) -> None:
        """Release a place."""
        self.admission.release()
        self.metrics.queue.set(self.admission.n_taken)

    def submit(self, arrival: Arrival) -> "Future[Answer]":
        """Return the future answer to an image, whose place it releases.

        Its exception is `ImageError` for an unusable image, `KeyReusedError` if the key
        was used for another one, and `UnavailableError` if it could not be stored.
        """
        key = arrival.source_key
        name = None if key is None else (arrival.source, key)
        with self._lock:
            if name in self._running:
                sha256, running = self._running[name]
                return self._joined(arrival, sha256, running)
            future = self._pool.submit(self._inspect, arrival)
            if name is not None:
                self._running[name] = (arrival.sha256, future)
        future.add_done_callback(lambda _: self._end(name))
        return future

    def give_up(self, arrival: Arrival, reason: str) -> None:
        """Store that an image, which is lost, is undecided.

        Raises:
            UnavailableError: If nothing can be stored, or no model decides yet.
        """
        rules = self.lineup.rules
        rule = rules.get(arrival.source) or rules.get(registry.ALL_SOURCES)
        if rule is None:
            raise UnavailableError(self.problem or "no model decides yet")
        row, _, _ = record_of(arrival, Undecided(reason), rule, self.config)
        self._write(row | {"media_state": "removed"}, (), {})

    def report(self, kind: str, detail: str) -> None:
        """Write an incident, and tell everybody who listens."""
        self.log.warning("incident", kind=kind, detail=detail)
        now = datetime.now(UTC)
        incident = self.writer.submit(queries.add_incident, kind, now, detail)

        def tell(done: "Future[Row]") -> None:
            if done.exception() is None:
                self.tell("incident", done.result())

        incident.add_done_callback(tell)

    def tell(self, kind: str, content: Row) -> None:
        """Pass an event on to everybody who listens."""
        for listener in tuple(self.listeners):
            listener(kind, content)

    def _take_place(self, source: str) -> None:
        self.admission.take(self.lineup.service_seconds(source))
        self.metrics.queue.set(self.admission.n_taken)

    def _joined(
        self, arrival: Arrival, sha256: str, running: "Future[Answer]"
    ) -> "Future[Answer]":
        """Return the answer of the same image, which is being inspected."""
        self.media.incoming(arrival.id).unlink(missing_ok=True)
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
        part = self.media.incoming(arrival.id)
        try:
            if arrival.source_key is not None:
                known = self.database.read(
                    queries.inspection_by_key, arrival.source, arrival.source_key
                )
                if known is not None:
                    return _replayed(arrival, known)
            return self._stored(arrival, part)
        finally:
            part.unlink(missing_ok=True)

    def _stored(self, arrival: Arrival, part: Path) -> Answer:
        start = time.perf_counter()
        place = self.media.place(arrival.id, arrival.first_bytes, arrival.received_at)
        paths = self.media.paths(part, place)
        max_pixels = self.config.max_pixels
        future, rule = self.lineup.submit(
            arrival.source,
            lambda rule: Job(arrival.id, paths, rule, max_pixels, arrival.color),
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
        row, regions, artifacts = record_of(arrival, outcome, rule, self.config)
        row |= {"media_path": place, "store_ms": store_ms}
        if isinstance(outcome, Found):
            used_ms = outcome.decode_ms + outcome.predict_ms
            row["wait_ms"] = max(0.0, total_ms - used_ms)
        stored = self._write(row, regions, artifacts)
        if stored["id"] == arrival.id:
            return Answer(stored)
        self.media.remove(place)
        return _replayed(arrival, stored)

    def _write(
        self, row: Row, regions: tuple[Row, ...], artifacts: dict[str, bytes]
    ) -> Row:
        """Write an inspection, tell everybody, and return it, or that of its key."""
        stored = self.writer.run(
            queries.insert_inspection, row, regions, artifacts, self.config.sinks
        )
        if stored["id"] != row["id"]:
            return stored
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
        if stored["expected"] == "anomalous" and stored["decision"] != "anomalous":
            self.report("challenge_passed", f"{stored['source']}: {stored['id']}")
        return stored


def _replayed(arrival: Arrival, known: Row) -> Answer:
    if known["sha256"] != arrival.sha256:
        raise _key_reused(arrival)
    return Answer(known, is_replay=True)


def _key_reused(arrival: Arrival) -> KeyReusedError:
    return KeyReusedError(
        f"a key names one image of a source, {arrival.source_key} was used for another "
        "one; give each image its own key"
    )
