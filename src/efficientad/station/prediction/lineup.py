"""The models in use: which one inspects the images of a source, and by which rule.

A new one is opened beside the old one, replays the golden samples, and takes over by
one change of a reference; the old one finishes its work.
"""

import json
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from efficientad.errors import EfficientADError
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.station.config import StationConfig
from efficientad.station.errors import ConflictError, UnknownError
from efficientad.station.prediction.inspector import (
    Found,
    Job,
    Outcome,
)
from efficientad.station.prediction.rules import Rule, first_rule
from efficientad.station.prediction.supervisor import Inspector, Report
from efficientad.station.storage import audit, registry
from efficientad.station.storage.audit_chain import Action
from efficientad.station.storage.engine import Database
from efficientad.station.storage.media import MediaStore
from efficientad.station.storage.queries import Row
from efficientad.station.storage.registry import ALL_SOURCES
from efficientad.station.storage.writer import Writer
from efficientad.storage import atomic_write, file_hash

_STATION: Final = "station"
"""Role of what the station does itself."""
_RULE: Final = ("version", "threshold", "budget", "min_area", "regions")

OpenModel = Callable[[Path, StationConfig], Predictor]
"""Opens a model file in the child process; it is pickled."""


def open_model(path: Path, config: StationConfig) -> Predictor:
    """Return the predictor of a model file."""
    return load(
        path, device=config.device, engine=config.engine, n_threads=config.n_threads
    )


@dataclass(frozen=True)
class _Active:
    inspector: Inspector
    rule: Rule


class Lineup:
    """Inspectors by model, and the active model and rule by source."""

    def __init__(
        self,
        config: StationConfig,
        database: Database,
        writer: Writer,
        media: MediaStore,
        report: Report,
        opener: OpenModel,
    ) -> None:
        self._config = config
        self._database = database
        self._writer = writer
        self._media = media
        self._report = report
        self._opener = opener
        self._folder = config.data / "models"
        self._active: Mapping[str, _Active] = {}
        self._swap = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._failure: str | None = None

    @property
    def problem(self) -> str | None:
        """Reason why nothing can be predicted now, or None."""
        if not self._active:
            return self._failure or "the model is being opened"
        if not all(each.inspector.is_ready for each in self._active.values()):
            return "the process that predicts is being started"
        return None

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The active rule of each source; `*` is that of all others."""
        return {source: each.rule for source, each in self._active.items()}

    @property
    def pids(self) -> list[int]:
        """Numbers of the processes that predict."""
        found = {each.inspector.pid for each in self._active.values()}
        return [pid for pid in found if pid is not None]

    def service_seconds(self, source: str) -> float:
        """Return the time that one image of a source takes."""
        return self._of(source).inspector.service_seconds

    def submit(
        self, source: str, job: Callable[[Rule], Job]
    ) -> tuple["Future[Outcome]", Rule]:
        """Return the future outcome of an image, and the rule that it is inspected by.

        Args:
            source: Source of the image.
            job: Function that makes the job of a rule.
        """
        with self._swap:  # the inspector does not stop between choice and call
            active = self._of(source)
            return active.inspector.submit(job(active.rule)), active.rule

    def start(self) -> None:
        """Open the models that were active, or the one of the settings."""
        try:
            sha256 = file_hash(self._config.model)
            with self._database.connect() as connection:
                is_known = registry.model_of(connection, sha256) is not None
                before = registry.active_ones(connection)
            if not is_known:
                self.add(self._config.model, self._config.model.name, "settings")
            for row in before:
                if is_known or row["source"] != ALL_SOURCES:
                    self._activate(row["source"], row["model"], row["rule"])
            if ALL_SOURCES not in self._active:
                self.activate(ALL_SOURCES, sha256, by="settings", reason="at start")
        except EfficientADError as error:
            self._failure = f"the model cannot be used: {error}"
            self._report("model_failed", str(error))

    def close(self) -> None:
        """End all inspectors."""
        for each in {a.inspector for a in self._active.values()}:
            each.close()

    def add(self, path: Path, name: str, by: str, role: str = _STATION) -> Row:
        """Copy a model file into the data folder after opening it, and return its row.

        Raises:
            ModelFileError: If it cannot be used.
            StorageError: If it cannot be copied.
        """
        sha256, suffix = file_hash(path), path.suffix
        place = self._folder / f"{sha256}{suffix}"
        for file in (path.with_suffix(".bin"), path):
            if file == path or (suffix == ".xml" and file.is_file()):
                with atomic_write(place.with_suffix(file.suffix)) as copy:
                    shutil.copyfile(file, copy)
        inspector = self._inspector(place)
        try:
            facts = inspector.ready()
        except EfficientADError:
            place.unlink()
            raise
        finally:
            inspector.close()
        row: Row = {
            "sha256": sha256,
            "name": name,
            "suffix": suffix,
            "bytes": path.stat().st_size,
            "provenance": _plain(facts.provenance),
            "calibration": _plain(facts.calibration),
            "added_at": datetime.now(UTC),
            "added_by": by,
        }
        action = Action(
            actor=by,
            role=role,
            action="add model",
            subject=sha256,
            after=audit.state(row, "name", "bytes"),
        )
        write = partial(registry.add_model, model=row)
        self._writer.run(audit.recorded(write, lambda _: action))
        rule = first_rule(row["calibration"])
        self.add_rule(sha256, rule, by, "of the model file", role)
        return row

    def add_rule(
        self,
        model: str,
        values: Mapping[str, Any],
        by: str,
        reason: str | None,
        role: str = _STATION,
    ) -> Row:
        """Write a rule of a model, and return it."""
        row = {**values, "model": model, "by": by, "reason": reason}
        row["at"] = datetime.now(UTC)
        with self._database.connect() as connection:
            newest = registry.newest_rule(connection, model)
        if newest is not None and newest["version"] >= row["version"]:
            if row["version"] == 1:
                return newest
            raise ConflictError(
                f"a new rule follows the newest one, version {newest['version']}, got "
                f"version {row['version']}; read the rules again"
            )
        before = newest and audit.state(newest, *_RULE)

        def action(new: Row) -> Action:
            return Action(
                actor=by,
                role=role,
                action="add rule",
                subject=new["id"],
                before=before,
                after=audit.state(new, *_RULE),
                reason=reason or "",
            )

        write = partial(registry.add_rule, rule=row)
        return self._writer.run(audit.recorded(write, action))

    def activate(
        self,
        source: str,
        model: str,
        rule: str | None = None,
        *,
        by: str,
        reason: str | None,
        role: str = _STATION,
    ) -> Row:
        """Let a model inspect the images of a source, once the golden samples agree.

        Args:
            source: Source, or `*` for all that have no model of their own.
            model: SHA-256 of the model file.
            rule: Number of its rule. None: the newest one.
            by: Person or token that asks for it.
            reason: Reason in words.
            role: Role of this person.

        Raises:
            UnknownError: If there is no such model or rule.
            ConflictError: If golden samples have another decision.
        """
        return self._activate(source, model, rule, role, by=by, reason=reason)

    def _activate(
        self,
        source: str,
        model: str,
        rule: str | None,
        role: str = _STATION,
        **new: str | None,
    ) -> Row:
        with self._one_at_a_time:
            chosen = self._rule(model, rule)
            active = self._opened(chosen)
            try:
                row: Row = {}
                if new:  # otherwise it was active before the start
                    run = self._replay(active)
                    row = {"source": source, "model": model, "rule": chosen.id, **new}
                    row |= {"golden_run": run, "at": datetime.now(UTC)}
                    row = self._write_activation(row, role)
            except EfficientADError:
                self._close_unused(active.inspector)
                raise
            with self._swap:
                before = self._active.get(source)
                self._active = {**self._active, source: active}
        if before is not None:
            self._close_unused(before.inspector)
        return row

    def _write_activation(self, activation: Row, role: str) -> Row:
        before = self._active.get(activation["source"])

        def action(row: Row) -> Action:
            return Action(
                actor=row["by"],
                role=role,
                action="activate",
                subject=row["source"],
                before=before and {"model": before.rule.model, "rule": before.rule.id},
                after=audit.state(row, "model", "rule"),
                reason=row["reason"] or "",
            )

        write = partial(registry.activate, activation=activation)
        return self._writer.run(audit.recorded(write, action))

    def _of(self, source: str) -> _Active:
        return self._active.get(source) or self._active[ALL_SOURCES]

    def _rule(self, model: str, rule: str | None) -> Rule:
        with self._database.connect() as connection:
            if rule is None:
                row = registry.newest_rule(connection, model)
            else:
                row = registry.rule_of(connection, rule)
        if row is None or row["model"] != model:
            raise UnknownError(f"no rule {rule or ''} of a model {model}")
        fields = ("id", "model", "version", "threshold", "budget", "min_area")
        regions = json.dumps(row["regions"])
        return Rule(**{name: row[name] for name in fields}, regions=regions)

    def _opened(self, rule: Rule) -> _Active:
        for each in self._active.values():
            if each.rule.model == rule.model:
                return _Active(each.inspector, rule)
        (place,) = (
            path
            for path in self._folder.glob(f"{rule.model}.*")
            if path.suffix != ".bin"
        )
        inspector = self._inspector(place)
        try:
            inspector.ready()
        except EfficientADError:
            inspector.close()
            raise
        return _Active(inspector, rule)

    def _inspector(self, place: Path) -> Inspector:
        return Inspector(
            partial(self._opener, place, self._config),
            seconds=self._config.prediction_seconds,
            report=self._report,
        )

    def _close_unused(self, inspector: Inspector) -> None:
        if all(each.inspector is not inspector for each in self._active.values()):
            threading.Thread(target=inspector.close, name="closing").start()

    def _replay(self, active: _Active) -> str | None:
        """Inspect the golden samples again, and return the number of the replay."""
        with self._database.connect() as connection:
            samples = registry.golden_samples(connection)
        if not samples:
            return None
        pixels = self._config.max_megapixels * 10**6
        jobs = [
            Job(
                s["inspection"],
                (self._media.path(s["media_path"]),),
                active.rule,
                pixels,
            )
            for s in samples
        ]
        futures = [active.inspector.submit(job, "background") for job in jobs]
        results = [
            _agreement(sample, future.result())
            for sample, future in zip(samples, futures, strict=True)
        ]
        others = [each["inspection"] for each in results if not each["agrees"]]
        if others:
            raise ConflictError(
                f"golden samples must be decided as people did, {len(others)} of "
                f"{len(results)} are not: {', '.join(others[:5])}; change the rule, or "
                "take them off the list"
            )
        run: Row = {"model": active.rule.model, "rule": active.rule.id}
        run["at"] = datetime.now(UTC)
        return self._writer.run(
            partial(registry.add_golden_run, run=run, results=results)
        )


def _agreement(sample: Row, outcome: Outcome) -> Row:
    decision = outcome.decision if isinstance(outcome, Found) else "undecided"
    expected = "normal" if sample["verdict"] == "normal" else "anomalous"
    return {
        "inspection": sample["inspection"],
        "score": outcome.image_score if isinstance(outcome, Found) else None,
        "decision": decision,
        "agrees": decision == expected,
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    return json.loads(json.dumps(value, default=str))
