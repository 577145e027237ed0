"""The database and the files of a station, without a station."""

import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.exc import IntegrityError

from efficientad.errors import StorageError
from efficientad.station.config import Retention
from efficientad.station.storage import engine, queries, registry, retention, tables
from efficientad.station.storage.media import MediaStore
from efficientad.station.storage.writer import Writer

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
MODEL = "0" * 64
RULE = "rule-1"


@pytest.fixture
def store(tmp_path):
    database = engine.open_database(tmp_path / "data")
    writer = Writer(database.writing)
    yield database, writer
    writer.close()
    database.close()


@pytest.fixture
def filled(store, tmp_path):
    """A store with a model and a rule, and its media."""
    database, writer = store
    model = {
        "sha256": MODEL,
        "name": "part.ead",
        "suffix": ".ead",
        "bytes": 1,
        "provenance": {},
        "calibration": {},
        "added_at": NOW,
        "added_by": "me",
    }
    rule = {
        "id": RULE,
        "model": MODEL,
        "version": 1,
        "threshold": 0.5,
        "budget": 0.05,
        "min_area": 0,
        "regions": [],
        "at": NOW,
        "by": "me",
    }
    writer.run(partial(registry.add_model, model=model))
    writer.run(partial(registry.add_rule, rule=rule))
    media = MediaStore(tmp_path / "media", min_free_mb=1, min_free_share=0.0)
    return database, writer, media


def put(filled, *, days=0.0, decision="normal", review=None, size=100):
    """Store an inspection of some days ago, and return its number and path."""
    _, writer, media = filled
    number, received_at = queries.new_id(), NOW - timedelta(days=days)
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
        "rule": RULE,
        "decision": decision,
        "media_state": "stored",
        "media_path": place,
        "media_bytes": size,
        "review_state": review,
        "replica": "here",
    }
    insert = partial(
        queries.insert_inspection, inspection=row, regions=(), artifacts={}, sinks=()
    )
    writer.run(insert)
    return number, media.path(place)


def test_tables_of_another_release_are_refused(tmp_path):
    database = engine.open_database(tmp_path)
    with database.writing.begin() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 2")
    database.close()

    with pytest.raises(StorageError, match=r"tables of version 1 were needed, .* has"):
        engine.open_database(tmp_path)


@pytest.mark.parametrize(
    "change", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"]
)
def test_the_audit_log_does_not_change(store, change):
    _, writer = store
    entry = {
        "seq": 1,
        "at": NOW,
        "actor": "me",
        "role": "engineer",
        "action": "test",
        "subject": "x",
        "previous": "",
        "hash": "h",
    }
    writer.run(lambda c: c.execute(tables.audit.insert().values(**entry)) and None)

    with pytest.raises(IntegrityError, match="does not change"):
        writer.run(lambda c: c.exec_driver_sql(change) and None)


def test_jobs_that_wait_share_one_commit_and_a_failure_leaves_the_others(store):
    database, writer = store
    commits: list[object] = []
    event.listen(database.writing, "commit", commits.append)
    is_free, is_busy = threading.Event(), threading.Event()

    def wait(_connection):
        is_busy.set()
        is_free.wait()

    def fail(_connection):
        raise ZeroDivisionError

    first = writer.submit(wait)
    is_busy.wait()
    jobs = [
        writer.submit(
            fail
            if number == 5
            else partial(queries.add_incident, kind=str(number), at=NOW, detail="x")
        )
        for number in range(20)
    ]
    is_free.set()
    first.result()
    failures = [number for number, job in enumerate(jobs) if job.exception()]
    with database.connect() as connection:
        n_rows = connection.execute(
            select(func.count()).select_from(tables.incidents)
        ).scalar()

    assert failures == [5]
    assert isinstance(jobs[5].exception(), ZeroDivisionError)
    assert n_rows == 19
    assert len(commits) == 2


def test_readers_cannot_write(store):
    database, _ = store
    with database.connect() as connection, pytest.raises(Exception, match="readonly"):
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
    database, writer, media = filled
    old, old_path = put(filled, days=40)
    young, young_path = put(filled, days=10)
    _, anomalous = put(filled, days=40, decision="anomalous")
    n_images = retention.remove_old(database, writer, media, Retention(), NOW)

    assert n_images == 1
    assert not old_path.exists()
    assert young_path.exists()
    assert anomalous.exists()
    with database.connect() as connection:
        found = [queries.inspection_of(connection, n) for n in (old, young)]
    states = [each and each["media_state"] for each in found]
    assert states == ["removed", "stored"]


def test_queued_reviewed_and_golden_images_stay_even_when_there_is_no_room(filled):
    database, writer, media = filled
    kept = [put(filled, days=4000, review=state) for state in ("queued", "normal")]
    golden = put(filled, days=4000)
    values = {"inspection": golden[0], "verdict": "normal", "active": True, "by": "me"}
    writer.run(lambda c: c.execute(tables.golden.insert().values(**values)) and None)
    _, gone = put(filled, days=4000)
    tight = Retention(normal_gb=0.001, normal_days=0.01, row_days=0.01)
    retention.remove_old(database, writer, media, tight, NOW)

    assert all(path.exists() for _, path in (*kept, golden))
    assert not gone.exists()
    with database.connect() as connection:
        n_rows = connection.execute(
            select(func.count()).select_from(tables.inspections)
        ).scalar()
    assert n_rows == 3


def test_the_oldest_normal_images_make_room(filled):
    database, writer, media = filled
    paths = [put(filled, days=5 - n, size=400_000)[1] for n in range(5)]
    limit = Retention(normal_gb=0.001)
    retention.remove_old(database, writer, media, limit, NOW)

    assert [path.exists() for path in paths] == [False, False, False, True, True]
