"""Images from a folder, and inspections told to others, each at least once."""

import errno
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from tests.station.test_kills import command_in
from tests.station_fakes import (
    config_in,
    image_of,
    incidents,
    listed,
    post,
    running,
    station_of,
    wait_until,
)
from tests.station_models import ANOMALOUS, NORMAL

from efficientad.errors import ConfigError
from efficientad.station.config import Folder, Mqtt, Webhook
from efficientad.station.sinks.webhook import WebhookSink
from efficientad.station.sources import folder as folder_source
from lab.experiments.station.harness import free_port, station_process


@pytest.fixture
def watched(tmp_path):
    folder = tmp_path / "line"
    folder.mkdir()
    source = Folder(name="line", path=folder, seconds=0.05, stable_seconds=0.2)
    with running(config_in(tmp_path, folders=(source,))) as client:
        yield client, folder


def test_a_folder_is_inspected_once_and_emptied(watched):
    client, folder = watched
    for number in range(10):
        level = ANOMALOUS if number == 3 else NORMAL
        (folder / f"part {number}.png").write_bytes(image_of(level, seed=number))
    (folder / ".hidden.png").write_bytes(image_of(NORMAL))
    wait_until(lambda: len(list((folder / "done").glob("*.png"))) == 10)
    found = listed(client, source="line")

    assert {each["part"] for each in found} == {f"part {n}" for n in range(10)}
    assert len(found) == 10
    anomalous = [each["part"] for each in found if each["decision"] == "anomalous"]
    assert anomalous == ["part 3"]
    assert (folder / ".hidden.png").exists()
    assert client.get("/api/v1/system").json()["sources"][0]["state"] == "running"


def test_a_file_that_is_written_slowly_is_inspected_when_it_is_whole(watched):
    client, folder = watched
    content = image_of(NORMAL, size=64)
    with (folder / "slow.png").open("wb", buffering=0) as file:
        for byte in range(0, len(content), 20):
            file.write(content[byte : byte + 20])
            time.sleep(0.1)
    wait_until((folder / "done" / "slow.png").exists)

    (found,) = listed(client)
    assert found["media_bytes"] == len(content)


def test_a_file_that_is_no_image_is_left_until_it_is_one(watched):
    client, folder = watched
    (folder / "part.png").write_bytes(b"not yet")
    (folder / "list.csv").write_text("part,lot\n")
    time.sleep(0.5)
    assert listed(client) == []
    (folder / "part.png").write_bytes(image_of(NORMAL))
    wait_until((folder / "done" / "part.png").exists)

    assert len(listed(client)) == 1
    assert (folder / "list.csv").exists()


def test_a_file_that_cannot_be_read_now_stays_and_the_others_are_inspected(
    watched, monkeypatch
):
    client, folder = watched
    read, n_failures = folder_source._copied, iter(range(3))

    def copied(path, *others):
        if path.name == "shy.png" and next(n_failures, None) is not None:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path, *others)

    monkeypatch.setattr(folder_source, "_copied", copied)
    (folder / "shy.png").write_bytes(image_of(NORMAL))
    (folder / "part.png").write_bytes(image_of(NORMAL, seed=1))
    wait_until((folder / "done" / "part.png").exists)
    wait_until((folder / "done" / "shy.png").exists)

    (found,) = (i for i in incidents(client) if i["kind"] == "folder")
    assert "Input/output error" in found["detail"]


def test_a_file_that_cannot_be_moved_stays_and_the_others_are_inspected(
    watched, monkeypatch
):
    client, folder = watched
    move = shutil.move

    def moved(path, place):
        if path.name.startswith("held"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return move(path, place)

    monkeypatch.setattr(shutil, "move", moved)
    for number in range(9):
        (folder / f"held {number}.png").write_bytes(image_of(NORMAL, seed=number))
    (folder / "last.png").write_bytes(image_of(ANOMALOUS))
    wait_until((folder / "done" / "last.png").exists)

    assert len(listed(client, source="line")) == 10
    found = [i["detail"] for i in incidents(client) if i["kind"] == "folder"]
    assert found
    assert all("Permission denied" in detail for detail in found)


def test_a_file_that_was_stored_before_a_kill_is_not_inspected_again(watched):
    client, folder = watched
    path = folder / "part.png"
    path.write_bytes(image_of(NORMAL))
    wait_until((folder / "done" / "part.png").exists)
    shutil.move(folder / "done" / "part.png", path)  # as if the kill came between
    wait_until(lambda: not path.exists())

    assert len(listed(client)) == 1


def test_a_paused_source_rests(watched):
    client, folder = watched
    assert client.post("/api/v1/sources/line/pause").status_code == 202
    (folder / "part.png").write_bytes(image_of(NORMAL))
    time.sleep(1)
    assert listed(client) == []
    client.post("/api/v1/sources/line/resume")
    wait_until(lambda: len(listed(client)) == 1)
    assert client.post("/api/v1/sources/other/pause").status_code == 404


class Receiver(ThreadingHTTPServer):
    """A receiver of webhooks that can be in trouble."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 204
        self.got = []
        self.url = f"http://127.0.0.1:{self.server_port}/parts?line=1"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/parts?line=1"
        if self.server.status == 204:
            self.server.got.append(json.loads(body))
        self.send_response(self.server.status)
        self.send_header("Location", "http://127.0.0.1/secrets")
        self.end_headers()

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def receiver():
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_webhook_gets_every_inspection_also_after_trouble(tmp_path, receiver):
    hook = Webhook(name="mes", url=receiver.url, is_private=True)
    with running(config_in(tmp_path, webhooks=(hook,))) as client:
        first = post(client, ANOMALOUS, part="P 1").json()
        wait_until(lambda: receiver.got)
        receiver.status = 503
        numbers = [post(client).json()["id"] for _ in range(3)]
        undelivered = client.get("/api/v1/system").json()["undelivered"]
        receiver.status = 204
        wait_until(lambda: len(receiver.got) >= 4)
        wait_until(lambda: not client.get("/api/v1/system").json()["undelivered"])

    assert undelivered == {"mes": 3}
    assert receiver.got[0] == first
    assert [each["id"] for each in receiver.got[1:]] == numbers


def test_what_is_not_delivered_is_so_after_a_new_start(tmp_path, receiver):
    hook = Webhook(name="mes", url=receiver.url, is_private=True)
    config = config_in(tmp_path, webhooks=(hook,))
    receiver.status = 500
    with running(config) as client:
        number = post(client).json()["id"]
    receiver.status = 204
    with running(config):
        wait_until(lambda: receiver.got)

    assert [each["id"] for each in receiver.got] == [number]


@pytest.mark.parametrize("status", [302, 400])
def test_a_redirect_or_refusal_is_no_delivery_and_is_not_followed(
    tmp_path, receiver, status
):
    receiver.status = status
    hook = Webhook(name="mes", url=receiver.url, is_private=True)
    with running(config_in(tmp_path, webhooks=(hook,))) as client:
        post(client).json()
        wait_until(lambda: failures(client))
        ((attempts, error),) = failures(client)

    assert attempts >= 1
    assert error == f"the receiver answers {status}"
    assert receiver.got == []


def failures(client):
    query = "SELECT attempts, error FROM outbox WHERE attempts > 0"
    with station_of(client).database.connect() as connection:
        return connection.exec_driver_sql(query).all()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/", "http://localhost:9/", "http://[::1]:9/"]
)
def test_a_webhook_into_a_private_network_must_be_allowed(url):
    with pytest.raises(OSError, match="in no public network"):
        WebhookSink(Webhook(name="mes", url=url)).deliver({"id": "1"})


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.com/", "file:///etc/passwd", "mes"),
        *("http://[::1/a", "http://mes:99999/", "http://mes:a/", "http://mes..de/"),
        *("http://mes/prüfung", "http://mes/a part"),
    ],
)
def test_a_webhook_needs_an_address_of_http(url):
    with pytest.raises(ConfigError, match="needs an address"):
        WebhookSink(Webhook(name="mes", url=url))


class Broker:
    """mosquitto, which can be gone for a time."""

    def __init__(self, folder):
        self.port = free_port()
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"persistence true\npersistence_location {folder}/\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self):
        program = shutil.which("mosquitto", path=PATHS) or "mosquitto"
        command = [program, "-c", str(self._settings)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(self._is_there)

    def _is_there(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        assert self._process is not None
        self._process.terminate()
        self._process.wait()


PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin"


@pytest.fixture
def broker(tmp_path):
    if shutil.which("mosquitto", path=PATHS) is None:
        pytest.skip("needs mosquitto, the broker")
    found = Broker(tmp_path)
    found.start()
    yield found
    found.stop()


def subscribed(broker, got):
    client = Client(CallbackAPIVersion.VERSION2, "reader", clean_session=False)
    client.on_connect = lambda c, *_: c.subscribe("efficientad/#", qos=1)
    client.on_message = lambda _c, _u, m: got.append((m.topic, m.payload, m.retain))
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    return client


def test_a_broker_gets_every_inspection_also_those_while_it_is_gone(tmp_path, broker):
    got: list[tuple[str, bytes, bool]] = []
    reader = subscribed(broker, got)
    mqtt = Mqtt(host="127.0.0.1", port=broker.port)
    with running(config_in(tmp_path, mqtt=mqtt, name="cell 1")) as client:
        numbers = [post(client, source="line").json()["id"] for _ in range(3)]
        wait_until(lambda: set(numbers) <= received(got))
        broker.stop()
        numbers += [post(client, source="line").json()["id"] for _ in range(5)]
        broker.start()
        wait_until(lambda: set(numbers) <= received(got))
    wait_until(lambda: ("efficientad/cell 1/state", b"offline") in states(got))
    reader.disconnect()
    reader.loop_stop()

    assert states(got)[0] == ("efficientad/cell 1/state", b"online")
    assert {topic for topic, *_ in got} == {
        "efficientad/cell 1/audit",
        "efficientad/cell 1/state",
        "efficientad/cell 1/line/inspection",
    }


def test_a_broker_tells_that_a_station_was_killed(tmp_path, broker):
    got: list[tuple[str, bytes, bool]] = []
    reader, port = subscribed(broker, got), free_port()
    mqtt = f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}'
    command = command_in(tmp_path, port, mqtt)
    with station_process(command, port, tmp_path / "log") as station:
        wait_until(lambda: states(got) == [("efficientad/station/state", b"online")])
        station.kill()
        wait_until(lambda: states(got)[-1] == ("efficientad/station/state", b"offline"))
    reader.disconnect()
    reader.loop_stop()


def received(got):
    return {json.loads(text)["id"] for topic, text, _ in got if "inspection" in topic}


def states(got):
    return [(topic, text) for topic, text, _ in got if topic.endswith("/state")]
