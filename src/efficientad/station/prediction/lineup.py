"""The models in use: which one inspects the images of a source, and by which rule.

A new one is opened beside the old one, replays the golden samples, and takes over by
one change of a reference; the old one finishes its work.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from efficientad.errors import EfficientADError
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.station.audit_chain import Actor
from efficientad.station.config import StationConfig
from efficientad.station.errors import UnavailableError
from efficientad.station.prediction.golden import replay
from efficientad.station.prediction.inspector import Job, Outcome, Ready
from efficientad.station.prediction.rules import Rule, first_rule, rule_of
from efficientad.station.prediction.supervisor import Inspector, Report
from efficientad.station.storage import registry
from efficientad.station.storage.queries import Row
from efficientad.station.storage.registry import ALL_SOURCES
from efficientad.station.storage.store import Store
from efficientad.storage import atomic_write, file_hash

_RETRY_SECONDS: Final = 2.0
_FOLLOW_SECONDS: Final = 2.0
_FAILED_SECONDS: Final = 60.0
_ITSELF: Final = Actor("settings", "station")

OpenModel = Callable[[Path, StationConfig], Predictor]
"""Opens a model file in the child process; it is pickled."""


def open_model(path: Path, config: StationConfig) -> Predictor:
    """Return the predictor of a model file."""
    return load(
        path, device=config.device, engine=config.engine, n_threads=config.n_threads
    )


@dataclass(frozen=True)
class Active:
    """A model that is open, and the rule that it decides by."""

    inspector: Inspector
    rule: Rule


class Lineup:
    """Inspectors by model, and the active model and rule by source."""

    def __init__(
        self,
        config: StationConfig,
        store: Store,
        report: Report,
        opener: OpenModel,
    ) -> None:
        self._config = config
        self._store = store
        self._report = report
        self._opener = opener
        self._folder = config.data / "models"
        self._active: Mapping[str, Active] = {}
        self._opened: dict[str, Inspector] = {}
        self._borrowed: list[Inspector] = []
        self._opening: list[Inspector] = []
        self._is_interrupted = False
        self._swap = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._failure: str | None = None

    @property
    def problem(self) -> str | None:
        """Reason why nothing can be predicted now, or None."""
        if ALL_SOURCES not in self._active:
            return self._failure or "the model is being opened"
        if not all(each.inspector.is_ready for each in self._active.values()):
            return "the process that predicts is being started"
        return None

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The active rule of each source; `*` is that of all others."""
        return {source: each.rule for source, each in self._active.items()}

    def service_seconds(self, source: str) -> float:
        """Return the time that one image of a source takes."""
        return self._of(source).inspector.service_seconds

    def submit(
        self, source: str, job: Callable[[Rule], Job]
    ) -> tuple["Future[Outcome]", Rule]:
        """Return the future outcome of a source's image, and the rule of its job."""
        with self._swap:  # the inspector does not stop between choice and call
            active = self._of(source)
            return active.inspector.submit(job(active.rule)), active.rule

    def start(self, is_closing: threading.Event) -> None:
        """Open the models that were active, and the one of the settings if it is new.

        A process that does not start says nothing of its model, and is started again
        until the station stops.
        """
        while not is_closing.is_set():
            try:
                self._start()
            except UnavailableError as error:
                if not is_closing.is_set():
                    self._report("inspector_died", str(error))
                is_closing.wait(_RETRY_SECONDS)
            except EfficientADError as error:
                self._failure = f"the model cannot be used: {error}"
                self._report("model_failed", str(error))
                return
            else:
                break
        pause = _FOLLOW_SECONDS
        while self._store.has_peers and not is_closing.wait(pause):
            pause = _FOLLOW_SECONDS if self._follow() else _FAILED_SECONDS

    def _follow(self) -> bool:
        """Open what another replica has activated, and return whether that works."""
        try:
            with self._one_at_a_time:
                for row in self._store.database.read(registry.active_ones):
                    active = self._active.get(row["source"])
                    if active is None or active.rule.id != row["rule"]:
                        new = self._active_of(row["model"], row["rule"])
                        self._put(row["source"], new)
        except UnavailableError:
            return True  # the database or the bucket is away: again soon
        except EfficientADError as error:
            self._report("model_failed", str(error))
            return False
        return True

    def _start(self) -> None:
        path = self._config.model
        sha256 = file_hash(path)
        read = self._store.database.read
        is_new = read(registry.newest_model_by, ALL_SOURCES, _ITSELF) != sha256
        if not read(registry.is_known, sha256):
            self._opened = {sha256: self._added(path, path.name, _ITSELF)}
        for row in read(registry.active_ones):
            if row["source"] != ALL_SOURCES or not is_new:
                self._put(row["source"], self._active_of(row["model"], row["rule"]))
        if ALL_SOURCES not in self._active:
            self.activate(ALL_SOURCES, sha256, None, _ITSELF, "at start")

    def interrupt(self) -> None:
        """End the opening of models, for good."""
        self._is_interrupted = True
        for each in tuple(self._opening):
            each.close()

    def close(self) -> None:
        """End all inspectors."""
        for each in {a.inspector for a in self._active.values()}:
            each.close()

    def add(self, path: Path, name: str, by: Actor) -> Row:
        """Copy a model file into the data folder after opening it, and return its row.

        Raises:
            ModelFileError: If it cannot be used.
            StorageError: If it cannot be copied.
        """
        self._added(path, name, by).close()
        return self._store.database.read(registry.model_of, file_hash(path))

    def activate(
        self, source: str, model: str, rule: str | None, by: Actor, reason: str | None
    ) -> Row:
        """Activate a model, by its hash, for a source, once the golden samples agree.

        The source `*` is all that have no model of their own. Without the number of a
        rule, it is the newest one.

        Raises:
            UnknownError: If there is no such model or rule.
            ConflictError: If golden samples have another decision.
        """
        with self._one_at_a_time:
            active = self._active_of(model, rule)
            row: Row = {"source": source, "model": model, "rule": active.rule.id}
            try:
                row["golden_run"] = replay(
                    active.inspector,
                    active.rule,
                    self._store,
                    self._config.max_pixels,
                )
                row = self._store.writer.run(registry.activate, row, by, reason)
            except EfficientADError:
                self._close_unused(active.inspector)
                raise
            self._put(source, active)
        return row

    @contextmanager
    def opened(self, model: str, rule: str | None) -> Iterator[Active]:
        """Yield a model with a rule, opened for this use if it is not in use.

        Raises:
            UnknownError: If there is no such model or rule.
        """
        with self._one_at_a_time:
            active = self._active_of(model, rule)
            self._borrowed.append(active.inspector)
        try:
            yield active
        finally:
            self._borrowed.remove(active.inspector)
            self._close_unused(active.inspector)

    def _put(self, source: str, active: Active) -> None:
        """Hand a source over to an inspector; the one before finishes its work."""
        with self._swap:
            before = self._active.get(source)
            self._active = {**self._active, source: active}
        if before is not None:
            self._close_unused(before.inspector)

    def _of(self, source: str) -> Active:
        return self._active.get(source) or self._active[ALL_SOURCES]

    def _added(self, path: Path, name: str, by: Actor) -> Inspector:
        """Copy and write a model file, and return its inspector, which is ready."""
        sha256, suffix = file_hash(path), path.suffix
        place = self._folder / f"{sha256}{suffix}"
        for file in (path.with_suffix(".bin"), path):
            if file == path or (suffix == ".xml" and file.is_file()):
                with atomic_write(place.with_suffix(file.suffix)) as copy:
                    shutil.copyfile(file, copy)
        try:
            inspector, facts = self._inspector(place)
        except EfficientADError:
            if not self._store.database.read(registry.is_known, sha256):
                place.unlink()
            raise
        row: Row = {
            "sha256": sha256,
            "name": name,
            "suffix": suffix,
            "bytes": path.stat().st_size,
            "provenance": _plain(facts.provenance),
            "calibration": _plain(facts.calibration),
        }
        rule = first_rule(row["calibration"])
        try:
            for file in self._folder.glob(f"{sha256}.*"):
                self._store.media.share(file)
            self._store.writer.run(registry.add_model, row, rule, by)
        except UnavailableError:
            inspector.close()
            raise
        return inspector

    def _active_of(self, model: str, rule: str | None) -> Active:
        """Return a model with a rule, opened if it is not yet."""
        row = self._store.database.read(registry.rule_of, model, rule)
        chosen = rule_of(row)
        for each in self._active.values():
            if each.rule.model == model:
                return Active(each.inspector, chosen)
        opened = self._opened.pop(model, None)
        if opened is None:
            known = self._store.database.read(registry.model_of, model)
            place = self._folder / f"{model}{known['suffix']}"
            for path in (place, place.with_suffix(".bin")):
                self._store.media.obtain(path)
            opened, _ = self._inspector(place)
        return Active(opened, chosen)

    def _inspector(self, place: Path) -> tuple[Inspector, Ready]:
        """Return an inspector that is ready, and facts about its model."""
        inspector = Inspector(
            partial(self._opener, place, self._config),
            seconds=self._config.prediction_seconds,
            report=self._report,
        )
        self._opening.append(inspector)
        if self._is_interrupted:
            inspector.close()
        try:
            return inspector, inspector.ready()
        except EfficientADError:
            inspector.close()
            raise
        finally:
            self._opening.remove(inspector)

    def _close_unused(self, inspector: Inspector) -> None:
        used = [*self._borrowed, *(each.inspector for each in self._active.values())]
        if inspector not in used:
            threading.Thread(target=inspector.close, name="closing").start()


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    return json.loads(json.dumps(value, default=str))
