"""Several stations on one PostgreSQL and one bucket: nothing is lost, nothing twice."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import cycle

import pytest
from tests.station.test_kills import command_in, numbered
from tests.station_fakes import (
    INSPECTIONS,
    config_in,
    image_of,
    incidents,
    inspected,
    is_ready,
    listed,
    post,
    running,
    station_of,
    wait_until,
)
from tests.station_models import ANOMALOUS, NORMAL

from efficientad.errors import ConfigError, MissingDependencyError, StorageError
from efficientad.station.config import Retention, shown
from efficientad.station.sinks.outbox import Delivery
from efficientad.station.storage import audit, jobs, leases, queries, retention, tables
from efficientad.station.storage.audit_chain import Actor, first_fault
from efficientad.station.storage.dialects import postgresql
from efficientad.station.storage.store import open_store
from lab.experiments.station.harness import (
    Load,
    faults_of,
    free_port,
    kill_repeatedly,
    station_process,
)

ME = Actor("me", "engineer")
BUCKET = "s3://station/line 1"


@pytest.fixture(scope="module")
def bucket():
    """A bucket of moto, where it is installed, and what the environment says of it."""
    pytest.importorskip("s3fs", reason="needs s3fs, of the extra s3")
    server = pytest.importorskip("moto.server", reason="needs moto's server")
    from s3fs import S3FileSystem

    moto = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        files = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
        files.mkdir("station")
        yield files
    moto.stop()


@pytest.fixture
def database(postgresql_server, tmp_path):
    return postgresql_server.address(f"db{abs(hash(tmp_path))}")


def keys_in(bucket, replica):
    return {key.rpartition("/")[2] for key in bucket.find(f"station/line 1/{replica}")}


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


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_away_is_a_503_until_it_is_back(tmp_path):
    with running(config_in(tmp_path, media=BUCKET, name="away")) as client:
        files = station_of(client).media._files
        root = files._root
        files._root = "nowhere/at all"
        answer = post(client, key="a")
        at_once = post(client, key="a")
        files._root = root
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
def test_a_bucket_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        open_store(config_in(tmp_path, media="s3://nowhere/x"))


class Recorder:
    """A sink that keeps what it gets."""

    name = "recorder"

    def __init__(self):
        self.got = []

    def deliver(self, payload):
        self.got.append(payload["id"])

    def close(self):
        pass


@pytest.fixture(scope="module")
def pair(tmp_path_factory, postgresql_server, bucket):
    """Two stations on one database and one bucket."""
    del bucket  # it sets the environment
    folder = tmp_path_factory.mktemp("pair")
    shared = {"media": BUCKET, "database": postgresql_server.address("pair")}
    configs = [
        config_in(folder / replica, name="cell", replica=replica, **shared)
        for replica in ("one", "two")
    ]
    with running(configs[0]) as one, running(configs[1]) as two:
        yield one, two


def test_a_key_that_two_replicas_get_at_once_is_stored_once(pair, bucket):
    one, two = pair
    images = [image_of(NORMAL, seed=n) for n in range(6)]
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(post, client, image, f"key-{n}")
            for n, image in enumerate(images)
            for client in pair
        ]
    answers = [future.result() for future in futures]
    ids = [answer.json()["id"] for answer in answers]
    other = post(two, image_of(ANOMALOUS), key="key-0")
    last = post(one, images[0]).json()
    image = two.get(f"{INSPECTIONS}/{last['id']}/image")
    stored = {each["id"]: each["replica"] for each in _rows(station_of(one))}

    assert ids[::2] == ids[1::2]
    assert sorted(answer.status_code for answer in answers) == [200] * 6 + [201] * 6
    assert other.status_code == 422
    assert stored.keys() == {*ids, last["id"]}
    assert image.content == images[0]
    for replica in ("one", "two"):
        own = {f"{number}.png" for number in stored if stored[number] == replica}
        assert keys_in(bucket, replica) == own


def test_what_one_replica_activates_the_other_takes_over(pair):
    one, two = pair
    (first,) = one.get("/api/v1/rules").json()
    new = {"model": first["model"], "version": 2, "threshold": 0.2, "budget": 0.1}
    rule = one.post("/api/v1/rules", json=new).json()["id"]
    one.post("/api/v1/activations", json={"model": first["model"], "rule": rule})
    wait_until(lambda: inspected(two)["rule"] == rule)
    query = {"name": "new.ead"}
    model = one.post("/api/v1/models", content=b"another", params=query).json()
    taken = two.post("/api/v1/activations", json={"model": model["sha256"]})
    wait_until(lambda: inspected(one)["model"] == model["sha256"])

    assert taken.status_code == 202
    verified = [each.get("/api/v1/audit/verify").json() for each in pair]
    assert verified[0] == verified[1]
    assert verified[0]["fault"] is None
    assert verified[0]["n"] >= 6


def test_a_job_fails_once_no_replica_has_its_lease(pair):
    one, two = map(station_of, pair)
    job = two.writer.run(jobs.add_job, "trial", "", ME, "two")["id"]
    one.writer.run(jobs.end_interrupted)
    before = one.database.read(jobs.job_of, job)["state"]
    one.writer.run(leases.release, holder="two")
    one.writer.run(jobs.end_interrupted)

    assert before == "running"
    assert one.database.read(jobs.job_of, job)["state"] == "failed"


def test_one_replica_tells_a_sink(pair):
    one, two = map(station_of, pair)
    sinks = [Recorder(), Recorder()]
    told = [
        Delivery(sink, station.store, station.log.warning)
        for sink, station in zip(sinks, (one, two), strict=True)
    ]
    numbers = [_write_for_sink(station) for station in (one, two) * 3]
    wait_until(lambda: sum(len(sink.got) for sink in sinks) == len(numbers))
    for each in told:
        each.close()

    assert sorted([sink.got for sink in sinks], key=len) == [[], numbers]
    assert [each.store.holds("x") for each in (one, two, one)] == [True, False, True]


def _rows(station):
    return station.database.read(queries.newest, tables.inspections, None)


def _write_for_sink(station):
    (row, *_) = _rows(station)
    row |= {"id": queries.new_id(), "source_key": None}
    station.writer.run(queries.insert_inspection, row, (), {}, ("recorder",))
    return row["id"]


@pytest.mark.usefixtures("bucket")
def test_replicas_append_to_one_audit_log_that_nobody_changes(tmp_path, database):
    stores = [
        open_store(config_in(tmp_path / r, database=database, media=BUCKET, replica=r))
        for r in ("one", "two")
    ]

    def append(store):
        for _ in range(20):
            store.writer.run(audit.append, ME, "x", store.replica)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(append, stores))
    for change in (
        "UPDATE audit SET actor = 'Eve'",
        "DELETE FROM audit",
        "TRUNCATE audit",
    ):
        with pytest.raises(Exception, match="the audit log does not change"):
            stores[0].writer.run(lambda c, text: c.exec_driver_sql(text), change)
    with stores[1].database.connect() as connection:
        entries = list(audit.entries(connection))
        head = audit.head(connection)
    for store in stores:
        store.close()

    assert head.seq == len(entries) == 40
    assert first_fault(entries, head) is None
    assert {entry.subject for entry in entries} == {"one", "two"}


def test_a_name_serves_one_replica_and_a_database_one_folder(tmp_path, database):
    first = open_store(config_in(tmp_path / "a", database=database))
    try:
        with pytest.raises(StorageError, match="another station is the replica"):
            open_store(config_in(tmp_path / "b", database=database))
        with pytest.raises(StorageError, match="both need media = s3://"):
            open_store(config_in(tmp_path / "b", database=database, replica="b"))
    finally:
        first.close()
    open_store(config_in(tmp_path / "b", database=database)).close()


def test_without_its_database_a_station_answers_503_and_loses_nothing(
    tmp_path, database, postgresql_server
):
    with running(config_in(tmp_path, database=database)) as client:
        first = post(client, key="a")
        postgresql_server.stop()
        start = time.monotonic()
        away = [post(client, key=key) for key in ("a", "b")]
        seen = client.get(INSPECTIONS)
        live = client.get("/health/live")
        taken = time.monotonic() - start
        wait_until(lambda: not is_ready(client))
        postgresql_server.start()
        wait_until(lambda: is_ready(client))
        again = [post(client, key=key) for key in ("a", "b")]

        assert [each.status_code for each in (*away, seen)] == [503] * 3
        assert live.status_code == 200
        assert taken < 60
        assert [each.status_code for each in again] == [200, 201]
        assert again[0].json() == first.json()
        assert len(listed(client)) == 2
        assert all("secret" not in each["detail"] for each in incidents(client))
        assert client.get("/api/v1/audit/verify").json()["fault"] is None


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
    import sys

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


@pytest.mark.parametrize("n_kills", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_what_was_answered_survives_kills_exactly_once(tmp_path, database, n_kills):
    port, pauses = free_port(), cycle((0.0, 0.3, 0.1))
    command = command_in(tmp_path, port, f'database = "{database}"')
    with station_process(command, port, tmp_path / "log") as station:
        load = Load(port, numbered, seconds_between=0.05)
        with load.running(2):
            kill_repeatedly(station, load, n_kills=n_kills, pauses=lambda: next(pauses))
        station.stop()

    store = open_store(config_in(tmp_path, database=database))
    rows = store.database.read(queries.newest, tables.inspections, None)
    store.close()
    assert len(load.sent) >= n_kills
    assert faults_of(rows, tmp_path / "data" / "media", load.sent) == []
