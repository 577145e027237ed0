"""The database and the files of a station, without a station."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from tests.station_fakes import config_in

from efficientad.errors import StorageError
from efficientad.station.audit_chain import Actor
from efficientad.station.config import Retention
from efficientad.station.errors import UnavailableError
from efficientad.station.storage import (
    engine,
    queries,
    registry,
    retention,
    reviews,
    tables,
)
from efficientad.station.storage.store import open_store

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
MODEL = "0" * 64
ME = Actor("me", "engineer")

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture
def store(tmp_path):
    store = open_store(config_in(tmp_path))
    yield store
    store.close()


@pytest.fixture
def filled(store):
    """A store with a model and a rule."""
    model: dict[str, Any] = {"sha256": MODEL, "name": "part.ead", "suffix": ".ead"}
    model |= {"bytes": 1, "provenance": {}, "calibration": {}}
    rule = {"version": 1, "threshold": 0.5, "budget": 0.05, "min_area": 0}
    store.writer.run(registry.add_model, model, {**rule, "regions": []}, ME)
    return store


def put(store, *, days=0.0, decision="normal", review=None, size=100):
    """Store an inspection of some days ago, and return its number and path."""
    received_at = NOW - timedelta(days=days)
    number = queries.first_id(received_at) + queries.new_id()[13:]
    media = store.media
    media.incoming(number).write_bytes(bytes(size))
    place = media.place(number, b"\x89PNG", received_at)
    media.keep(media.incoming(number), place)
    row = {
        "id": number,
        "source": "line",
        "color": "rgb",
        "received_at": received_at,
        "sha256": MODEL,
        "model": MODEL,
        "rule": store.database.read(registry.rule_of, MODEL, None)["id"],
        "decision": decision,
        "media_state": "stored",
        "media_path": place,
        "media_bytes": size,
        "review_state": review,
        "replica": "here",
    }
    store.writer.run(queries.insert_inspection, row, (), {}, ())
    return number, media.paths(media.incoming(number), place)[1]


def listed(store):
    return store.database.read(queries.list_inspections, limit=100, equal={})


def test_tables_of_another_release_are_refused(tmp_path):
    store = open_store(config_in(tmp_path))
    newer = store.database.probe.replace("1", "2")
    store.writer.run(lambda connection: connection.exec_driver_sql(newer))
    store.close()

    with pytest.raises(StorageError, match=r"tables of version 1 were needed, .* has"):
        open_store(config_in(tmp_path))


def test_jobs_that_wait_share_one_commit_and_a_failure_leaves_the_others(store):
    writer = store.writer
    commits: list[object] = []
    event.listen(store.database.writing, "commit", commits.append)
    is_free, is_busy = threading.Event(), threading.Event()

    def wait(_connection):
        is_busy.set()
        is_free.wait()

    def fail(_connection):
        raise ZeroDivisionError

    first = writer.submit(wait)
    is_busy.wait()
    jobs = [
        writer.submit(fail)
        if number == 5
        else writer.submit(queries.add_incident, str(number), NOW, "x")
        for number in range(20)
    ]
    is_free.set()
    first.result()
    failures = [number for number, job in enumerate(jobs) if job.exception()]
    n_rows = len(store.database.read(queries.newest, tables.incidents, None))

    assert failures == [5]
    assert isinstance(jobs[5].exception(), ZeroDivisionError)
    assert n_rows == 19
    assert len(commits) == 2


def test_readers_cannot_write(store):
    with (
        store.database.connect() as connection,
        pytest.raises(Exception, match=r"read-?only"),
    ):
        connection.exec_driver_sql("DELETE FROM incidents")


def test_a_network_disk_is_refused(tmp_path, monkeypatch):
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    kinds = {line.split()[2] for line in mounts.splitlines()}
    monkeypatch.setattr(engine, "_NETWORK_SYSTEMS", kinds)

    with pytest.raises(StorageError, match="must be on a local disk"):
        engine.open_database(tmp_path / "data")


def test_a_database_that_is_none_is_refused(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "station.db").write_bytes(b"this is no database" * 100)

    with pytest.raises(StorageError, match="cannot be opened"):
        engine.open_database(folder)


def test_old_images_go_and_their_rows_stay(filled):
    old, old_path = put(filled, days=40)
    young, young_path = put(filled, days=10)
    _, anomalous = put(filled, days=40, decision="anomalous")
    retention.remove_old(filled, Retention(), NOW)

    assert not old_path.exists()
    assert young_path.exists()
    assert anomalous.exists()
    found = [filled.database.read(queries.inspection_of, n) for n in (old, young)]
    assert [each["media_state"] for each in found] == ["removed", "stored"]


def test_queued_reviewed_and_golden_images_stay_even_when_there_is_no_room(filled):
    kept = [put(filled, days=4000, review=state) for state in ("queued", "normal")]
    golden = put(filled, days=4000)
    sample = {"verdict": "normal", "active": True}
    filled.writer.run(reviews.set_golden, golden[0], sample, ME)
    _, gone = put(filled, days=4000)
    tight = Retention(normal_gb=0.001, normal_days=0.01, row_days=0.01)
    retention.remove_old(filled, tight, NOW)

    assert all(path.exists() for _, path in (*kept, golden))
    assert not gone.exists()
    assert len(listed(filled)) == 3


def test_the_oldest_normal_images_make_room(filled):
    paths = [put(filled, days=5 - n, size=400_000)[1] for n in range(5)]
    retention.remove_old(filled, Retention(normal_gb=0.001), NOW)

    assert [path.exists() for path in paths] == [False, False, False, True, True]


def test_a_job_after_the_end_fails_at_once(tmp_path):
    store = open_store(config_in(tmp_path))
    store.close()

    with pytest.raises(UnavailableError, match="is stopping"):
        store.writer.submit(retention.mark_removed, []).result(timeout=10)


def test_a_time_has_the_first_of_its_numbers():
    before = queries.first_id(datetime.now(UTC))
    number = queries.new_id()

    assert before <= number < queries.first_id(datetime.now(UTC) + timedelta(seconds=1))
    assert queries.first_id(datetime(1926, 1, 1, tzinfo=UTC)) == "00000000-0000"
