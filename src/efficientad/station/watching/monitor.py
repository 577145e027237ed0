"""The drift watch of a running station: a thread that sees every stored part.

An epoch is a stretch of parts with one model and rule. It ends with an activation, an
acknowledged alarm, or 50 000 parts. Only its first part is written; after a restart its
parts are read again, which takes a second or two.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Final

from efficientad.station.config import StationConfig
from efficientad.station.errors import UnavailableError
from efficientad.station.storage import alarms, registry
from efficientad.station.storage.queries import Row, time_of
from efficientad.station.storage.store import Store
from efficientad.station.watching.statistics import (
    APPEARANCE,
    EPOCH,
    PARTS_PER_FALSE_ALARM,
    Part,
    Reading,
    SourceDrift,
)

Tell = Callable[[str, Row], None]
Report = Callable[[str, str], None]

_N_IDENTICAL: Final = 3
_N_HISTORY: Final = 400
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Statistic:
    """Evidence that a statistic has changed."""

    statistic: str
    value: float
    """Shiryaev-Roberts statistic; without drift its mean is the number of parts."""
    level: float
    """Value at which an alarm is raised."""
    n_parts: int
    since: datetime | None
    """Likeliest time of the change, if there was one."""
    history: list[tuple[float, float]]
    """Time in seconds, and the logarithm of the value to the base 10."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """The watch of one source."""

    source: str
    model: str
    rule: str
    since: datetime
    n_parts: int
    days_per_false_alarm: float | None
    statistics: list[Statistic]


class Watched:
    """A source in its epoch."""

    def __init__(self, drift: SourceDrift, first: Row) -> None:
        self.drift = drift
        self.first = self.last = first
        self.seen_at = time.monotonic()
        self.raised: set[str] = set()
        self.restored = ""
        """Last part that was read again after a restart; it may also be in the queue.
        """
        self.history: list[tuple[float, tuple[float, ...]]] = []
        self._every = 1
        self._hashes: deque[str] = deque(maxlen=_N_IDENTICAL)

    def add(self, row: Row) -> tuple[Reading, ...]:
        """Add a part that has a score, and return the statistics that became alarms."""
        self.last, self.seen_at = row, time.monotonic()
        appearance = {name: row[name] for name in APPEARANCE}
        is_anomalous = row["decision"] == "anomalous"
        self.drift.add(Part(row["id"], row["image_score"], is_anomalous, **appearance))
        readings = self.drift.readings()
        if self.drift.n_parts % self._every == 0:
            values = tuple(math.log10(max(r.evidence.value, 1.0)) for r in readings)
            self.history.append((row["received_at"].timestamp(), values))
            if len(self.history) > _N_HISTORY:
                self.history = self.history[1::2]
                self._every *= 2
        new = tuple(
            r for r in readings if r.is_alarm and r.statistic not in self.raised
        )
        self.raised |= {reading.statistic for reading in new}
        return new

    def is_repeated(self, sha256: str) -> bool:
        """Return whether the last three images are the same to the bit."""
        self._hashes.append(sha256)
        is_full = len(self._hashes) == _N_IDENTICAL and len(set(self._hashes)) == 1
        if is_full:
            self._hashes.clear()
        return is_full

    @property
    def parts_per_day(self) -> float | None:
        """Rate of parts in this epoch, None for a single part."""
        seconds = (self.last["received_at"] - self.first["received_at"]).total_seconds()
        return self.drift.n_parts * _DAY / seconds if seconds > 0 else None


class Monitor:
    """Watches all sources."""

    def __init__(
        self, store: Store, config: StationConfig, tell: Tell, report: Report
    ) -> None:
        self._database, self._writer, _, self._replica = store
        self._config, self._tell, self._report = config, tell, report
        self._watched: dict[str, Watched] = {}
        self._silent: set[str] = set()
        self._lock = threading.Lock()
        self._parts: SimpleQueue[Row | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)

    def start(self) -> None:
        """Read the parts of the last epochs again, then watch."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._parts.put(None)
        self._thread.join()

    def __call__(self, kind: str, content: Row) -> None:
        """Handle an event of the station, in any thread."""
        if kind == "inspection":
            self._parts.put(content)

    def renew(self, source: str) -> None:
        """End the epoch of a source; its next part begins another one."""
        with self._lock:
            self._watched.pop(source, None)

    def states(self) -> list[SourceState]:
        """Return the state of all sources."""
        with self._lock:
            return [_state(each) for _, each in sorted(self._watched.items())]

    def _run(self) -> None:
        next_look, is_restored = 0.0, False
        while True:
            try:
                row = self._parts.get(timeout=1)
                if row is None:
                    return
            except Empty:
                row = None
            with suppress(UnavailableError):  # the station says that it is away
                if not is_restored:
                    self._restore()
                    is_restored = True
                if row is not None:
                    self._see(row)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 1
                self._look_for_silence()

    def _restore(self) -> None:
        with self._database.connect() as connection:
            for epoch in alarms.newest_epochs(connection, self._replica):
                source = epoch["source"]
                parts = alarms.parts_since(connection, epoch, self._replica, EPOCH)
                if not parts:
                    continue
                watched = Watched(self._drift(parts[0]), parts[0])
                for row in parts:
                    watched.add(row)
                watched.restored = parts[-1]["id"]
                # An acknowledged alarm has ended the epoch.
                if not watched.raised or alarms.open_alarms(connection, source):
                    self._watched[source] = watched

    def _see(self, row: Row) -> None:
        if row["image_score"] is None:
            return
        source = row["source"]
        self._silent.discard(source)
        watched = self._watched.get(source)
        if watched is not None and row["id"] <= watched.restored:
            return
        if (
            watched is None
            or watched.first["rule"] != row["rule"]
            or watched.drift.n_parts >= EPOCH
            or self._is_acknowledged(watched)
        ):
            watched = self._begin(row)
        with self._lock:
            new = watched.add(row)
        for reading in new:
            self._raise(source, reading)
        if watched.is_repeated(row["sha256"]):
            self._report(
                "identical_images",
                f"{source} sends the same image again and again, to the bit",
            )

    def _is_acknowledged(self, watched: Watched) -> bool:
        """Return whether somebody has acknowledged its alarms, at any replica."""
        if not watched.raised:
            return False
        return not self._database.read(alarms.open_alarms, watched.first["source"])

    def _begin(self, row: Row) -> Watched:
        watched = Watched(self._drift(row), row)
        self._writer.run(alarms.begin_epoch, row)
        with self._lock:
            self._watched[row["source"]] = watched
        return watched

    def _drift(self, row: Row) -> SourceDrift:
        with self._database.connect() as connection:
            model = registry.model_of(connection, row["model"])
            rule = registry.rule_of(connection, row["model"], row["rule"])
        return SourceDrift(
            model["calibration"]["normal_scores"],
            rule["threshold"],
            rule["budget"] + self._config.defect_share,
        )

    def _raise(self, source: str, reading: Reading) -> None:
        alarm = {
            "kind": reading.statistic,
            "source": source,
            "since": _time(reading),
            "raised_at": datetime.now(UTC),
            "value": reading.evidence.value,
        }
        self._tell("alarm", self._writer.run(alarms.raise_alarm, alarm))

    def _look_for_silence(self) -> None:
        if self._config.silent_seconds is None:
            return
        latest = time.monotonic() - self._config.silent_seconds
        with self._lock:  # an acknowledgement ends an epoch in another thread
            silent = {s for s, each in self._watched.items() if each.seen_at < latest}
        for source in silent - self._silent:
            self._silent.add(source)
            self._report("silent_source", f"no part comes from {source}")


def _state(watched: Watched) -> SourceState:
    first, rate = watched.first, watched.parts_per_day
    statistics = [
        Statistic(
            statistic=reading.statistic,
            value=reading.evidence.value,
            level=reading.level,
            n_parts=reading.evidence.n_parts,
            since=_time(reading),
            history=[(at, values[index]) for at, values in watched.history],
        )
        for index, reading in enumerate(watched.drift.readings())
    ]
    return SourceState(
        source=first["source"],
        model=first["model"],
        rule=first["rule"],
        since=first["received_at"],
        n_parts=watched.drift.n_parts,
        days_per_false_alarm=rate and PARTS_PER_FALSE_ALARM / rate,
        statistics=statistics,
    )


def _time(reading: Reading) -> datetime | None:
    since = reading.evidence.since
    return None if since is None else time_of(since)
