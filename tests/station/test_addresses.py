"""Databases and buckets at an address: read back, away, misspelled, not installed."""

import sys
from datetime import UTC, datetime, timedelta

import pytest
from tests.station_databases import BUCKET, keys_in
from tests.station_fakes import (
    INSPECTIONS,
    config_in,
    image_of,
    is_ready,
    listed,
    post,
    running,
    station_of,
    wait_until,
)
from tests.station_models import ANOMALOUS

from efficientad.errors import ConfigError, MissingDependencyError, StorageError
from efficientad.station.config import Retention, shown
from efficientad.station.storage import queries, retention, tables
from efficientad.station.storage.dialects import postgresql
from efficientad.station.storage.store import open_store
from lab.experiments.station.harness import free_port


def test_images_in_a_bucket_are_read_back_and_removed(tmp_path, bucket):
    config = config_in(tmp_path, media=BUCKET, name="read")
    content = image_of(ANOMALOUS, seed=1)
    with running(config) as client:
        row, old = (post(client, each).json() for each in (content, content))
        place = f"{INSPECTIONS}/{row['id']}"
        image = client.get(f"{place}/image")
        preview = client.get(f"{place}/preview")
        refused = post(client, b"\x89PNG\r\n\x1a\n is no image")
        assert keys_in(bucket, "read") == {f"{each['id']}.png" for each in (row, old)}
        store = station_of(client).store
        client.put(f"/api/v1/golden/{row['id']}", json={"verdict": "defect"})
        model = client.get("/api/v1/models").json()[0]["sha256"]
        replayed = client.post("/api/v1/activations", json={"model": model})
        free = tables.inspections.update().values(review_state=None)
        store.writer.run(lambda connection: connection.execute(free).rowcount)
        later = datetime.now(UTC) + timedelta(days=400)
        retention.remove_old(store, Retention(), later)
        gone = client.get(f"{INSPECTIONS}/{old['id']}/image")

    assert image.content == content
    assert (preview.status_code, gone.status_code) == (200, 410)
    assert refused.status_code == 422
    assert replayed.json()["golden_run"] is not None
    assert keys_in(bucket, "read") == {f"{row['id']}.png"}
    assert not list((config.data / "media" / "incoming").iterdir())


def test_a_station_removes_its_own_left_overs_from_a_bucket_and_no_others(
    tmp_path, bucket
):
    config = config_in(tmp_path, media=BUCKET, name="mine")
    with running(config) as client:
        kept = post(client).json()["id"]
    minute = "2026-11-29/07/30"
    number = queries.new_id()
    for replica in ("mine", "other"):
        bucket.pipe(f"station/line 1/{replica}/{minute}/{number}.png", b"x")
    with running(config):
        wait_until(lambda: keys_in(bucket, "mine") == {f"{kept}.png"})

    assert keys_in(bucket, "other") == {f"{number}.png"}


def test_a_bucket_that_is_away_is_a_503_until_it_is_back(tmp_path, bucket):
    bucket.mkdir("other")
    with running(config_in(tmp_path, media="s3://other/x")) as client:
        bucket.rm("other", recursive=True)
        answer = post(client, key="a")
        at_once = post(client, key="a")
        bucket.mkdir("other")
        wait_until(lambda: is_ready(client))
        again = post(client, key="a")
        n_rows = len(listed(client))

    assert (answer.status_code, at_once.status_code) == (503, 503)
    assert "images cannot be stored" in answer.json()["detail"]
    assert (again.status_code, n_rows) == (201, 1)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("media", ["/srv/media", "s3://", "gs://bucket"])
def test_media_that_are_no_bucket_are_refused(tmp_path, media):
    with pytest.raises(ConfigError, match="media needs a bucket such as s3://"):
        open_store(config_in(tmp_path, media=media))


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_reached_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match="cannot be written"):
        open_store(config_in(tmp_path, media=BUCKET))


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        open_store(config_in(tmp_path, media="s3://nowhere/x"))


def test_a_database_that_is_away_at_the_start_is_one_sentence(tmp_path):
    pytest.importorskip("psycopg", reason="needs psycopg, of the extra postgres")
    address = f"postgresql+psycopg://eve:secret@127.0.0.1:{free_port()}/x"
    with pytest.raises(StorageError, match="cannot be opened") as caught:
        open_store(config_in(tmp_path, database=address))

    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["mysql://u:secret@h/x", "no address", "a://b:c/d"])
def test_an_address_of_something_else_is_refused_and_not_shown(address):
    with pytest.raises(ConfigError, match="database needs an address") as caught:
        postgresql(address, "one", has_peers=False)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "package", "extra"),
    [
        ({"database": "postgresql://h/x"}, "psycopg", "postgres"),
        ({"media": BUCKET}, "s3fs", "s3"),
    ],
)
def test_a_missing_extra_is_named(tmp_path, monkeypatch, settings, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    name = "efficientad.station.storage.object_media"
    monkeypatch.delitem(sys.modules, name, raising=False)

    with pytest.raises(MissingDependencyError, match=rf"efficientad\[{extra}\]"):
        open_store(config_in(tmp_path, **settings))


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://eve:secret@host/x",
        "postgresql+psycopg://eve:secret/@secret@host/x",
        "postgresql+psycopg://host/x?user=eve&password=secret&sslmode=require",
    ],
)
def test_the_password_of_a_database_is_not_shown(tmp_path, address):
    found = shown(config_in(tmp_path, database=address))

    assert "secret" not in str(found)
    assert "host/x" in found["database"]
