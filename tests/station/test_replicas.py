"""Several stations on one PostgreSQL and one bucket: nothing is lost, nothing twice."""

import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle

import pytest
from tests.station.test_kills import command_in, numbered
from tests.station_databases import BUCKET, keys_in
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

from efficientad.errors import StorageError
from efficientad.station.audit_chain import Actor, first_fault
from efficientad.station.sinks.outbox import Delivery
from efficientad.station.storage import audit, jobs, leases, queries, tables
from efficientad.station.storage.relay import Relay
from efficientad.station.storage.store import open_store
from lab.experiments.station.harness import (
    Load,
    faults_of,
    free_port,
    kill_repeatedly,
    station_process,
)

ME = Actor("me", "engineer")


@pytest.fixture
def database(postgresql_server, tmp_path):
    return postgresql_server.address(f"db{abs(hash(tmp_path))}")


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


def test_each_replica_shows_live_what_both_store(pair):
    streams = [client.app.state.events for client in pair]
    shown = [
        client.portal.start_task_soon(_two_inspections, events)
        for client, events in zip(pair, streams, strict=True)
    ]
    wait_until(lambda: all(events._streams for events in streams))
    stored = {part["id"]: part for part in map(inspected, pair)}

    for parts in shown:
        found = {part["id"]: part for part in parts.result(timeout=20)}
        assert found.keys() == stored.keys()
        assert all(stored[number].items() >= found[number].items() for number in found)


async def _two_inspections(events):
    """Return the first inspections of a stream."""
    parts = []
    async for kind, content in events.stream():
        parts += [content] if kind == "inspection" else []
        if len(parts) == 2:
            break
    return parts


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


def test_events_come_again_after_the_database_was_away(
    tmp_path, database, postgresql_server
):
    store = open_store(config_in(tmp_path, database=database))
    heard = []
    relay = Relay(store, lambda *event: heard.append(event))
    other = Relay(store._replace(replica="other"), lambda *_: None)

    def is_heard():
        for each in (relay, other):
            each.send("review", {"id": each._store.replica})
        return bool(heard)

    wait_until(is_heard)
    before = {*map(str, heard)}
    postgresql_server.stop()
    postgresql_server.start()
    heard.clear()
    wait_until(is_heard)
    for each in (relay, other, store):
        each.close()

    assert before == {*map(str, heard)} == {str(("review", {"id": "other"}))}


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


@pytest.mark.parametrize("n_kills", [3, pytest.param(40, marks=pytest.mark.slow)])
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


@pytest.fixture
def nginx(tmp_path):
    """Two free ports, and that of nginx before them."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs nginx")
    ports = [free_port() for _ in range(3)]
    servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports[1:])
    paths = "".join(
        f"{kind}_temp_path {tmp_path}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"""daemon off; user root; pid {tmp_path}/pid; error_log {tmp_path}/nginx.log;
        events {{}}
        http {{
            access_log off; client_max_body_size 32m; {paths}
            upstream station {{ {servers} }}
            server {{
                listen 127.0.0.1:{ports[0]};
                location / {{
                    proxy_pass http://station;
                    proxy_set_header Host localhost;
                    proxy_next_upstream error timeout http_503 non_idempotent;
                }}
            }}
        }}"""
    )
    command = [program, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "log")]
    with subprocess.Popen(command) as process:
        yield ports
        process.terminate()


@pytest.mark.slow
def test_what_was_answered_survives_kills_of_one_of_two_replicas_behind_nginx(
    tmp_path, database, bucket, nginx
):
    stations = []
    with ExitStack() as stack:
        for replica, port in zip(("red", "blue"), nginx[1:], strict=True):
            folder = tmp_path / replica
            folder.mkdir()
            lines = [
                f'database = "{database}"',
                f'media = "{BUCKET}"',
                f'replica = "{replica}"',
            ]
            command = command_in(folder, port, *lines)
            process = station_process(command, port, folder / "log")
            stations.append(stack.enter_context(process))
        load = Load(nginx[0], numbered, seconds_between=0.05)
        pauses = cycle((1.0, 0.3, 0.6))
        with load.running(3):
            kill_repeatedly(stations[0], load, n_kills=5, pauses=lambda: next(pauses))
        for station in stations:
            station.stop()

    store = open_store(config_in(tmp_path, database=database, media=BUCKET))
    rows = store.database.read(queries.newest, tables.inspections, None)
    with store.database.connect() as connection:
        fault = first_fault(audit.entries(connection), audit.head(connection))
    store.close()
    for replica in ("red", "blue"):
        place = str(tmp_path / "media" / replica)
        bucket.get(f"station/line 1/{replica}/", place, recursive=True)
    assert fault is None
    assert {row["replica"] for row in rows} == {"red", "blue"}
    assert faults_of(rows, tmp_path / "media", load.sent) == []
