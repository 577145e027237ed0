"""A station that is killed at its work: what was answered is there, exactly once."""

import http.client
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.station_fakes import image_of, wait_until
from tests.station_models import ANOMALOUS, ENDLESS, NORMAL

from lab.experiments.station.harness import (
    INSPECTIONS,
    Load,
    Sent,
    faults,
    free_port,
    kill_repeatedly,
    request,
    station_process,
)


def command_in(folder, port, *lines):
    model, settings = folder / "part.ead", folder / "station.toml"
    model.write_bytes(b"a fake model")
    settings.write_text(
        f'model = "{model}"\ndata = "{folder / "data"}"\nport = {port}\n'
        "min_free_mb = 1\nmin_free_share = 0.0\n"
        "upload_seconds = 2.0\nprediction_seconds = 2.0\n" + "\n".join(lines)
    )
    return [sys.executable, "-m", "tests.station_server", str(settings)]


def numbered(number):
    is_normal = number % 4 != 0
    level = NORMAL if is_normal else ANOMALOUS
    return image_of(level, seed=number), "normal" if is_normal else "anomalous"


@pytest.fixture
def station(tmp_path):
    port = free_port()
    command = command_in(tmp_path, port)
    with station_process(command, port, tmp_path / "log") as process:
        yield process


@pytest.mark.parametrize("n_kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_what_was_answered_survives_kills_exactly_once(tmp_path, station, rng, n_kills):
    load = Load(station.port, numbered, seconds_between=0.05)
    with load.running(3):
        kill_repeatedly(
            station, load, n_kills=n_kills, pauses=lambda: rng.uniform(0, 0.3)
        )
    assert station.stop() < 10

    assert len(load.sent) >= n_kills
    assert faults(tmp_path / "data", load.sent) == []
    assert not list((tmp_path / "data" / "media" / "incoming").iterdir())


@pytest.mark.slow
def test_every_file_of_a_folder_is_inspected_once_though_the_station_is_killed(
    tmp_path,
):
    line, port, n_files = tmp_path / "line", free_port(), 300
    folder = f'[[folders]]\nname = "line"\npath = "{line}"\nstable_seconds = 0.2'
    command = command_in(tmp_path, port, folder)
    line.mkdir()
    with station_process(command, port, tmp_path / "log") as station:
        for number in range(n_files):
            (line / f"{number}.png").write_bytes(numbered(number)[0])
            if number % 100 == 99:
                n_done = len(list(line.glob("done/*")))
                wait_until(lambda: len(list(line.glob("done/*"))) > n_done, 600)  # noqa: B023
                station.kill()
                station.start()
        wait_until(lambda: len(list(line.glob("done/*"))) == n_files, 600)
        station.stop()

    data = tmp_path / "data"
    with closing(sqlite3.connect(data / "station.db")) as connection:
        query = "SELECT part, decision FROM inspections"
        rows = connection.execute(query).fetchall()
    assert faults(data, []) == []
    assert sorted(rows) == sorted((str(n), numbered(n)[1]) for n in range(n_files))


@pytest.mark.slow
def test_memory_and_the_log_of_the_database_stay_small(tmp_path, station):
    def memory_after(n_images):
        wait_until(lambda: len(load.sent) >= n_images, 600)
        n_pages = Path(f"/proc/{station.pid}/statm").read_text().split()[1]
        return int(n_pages) * os.sysconf("SC_PAGE_SIZE")

    load = Load(station.port, numbered, seconds_between=0.0)
    with load.running(3):
        before = memory_after(150)
        after = memory_after(600)

    assert after - before < 5e6
    assert (tmp_path / "data" / "station.db-wal").stat().st_size < 64e6


def test_the_check_notices_what_is_lost(tmp_path, station):
    """Positive control: a lost file, a lost row and a wrong decision are found."""
    status, _ = request(
        station.port,
        "POST",
        INSPECTIONS,
        image_of(NORMAL),
        {"Idempotency-Key": "key-0"},
    )
    load = Load(station.port, numbered, seconds_between=0.0)
    load._send_one(1)
    (sent,) = load.sent
    station.stop()
    data = tmp_path / "data"

    assert status == 201
    assert faults(data, [sent]) == []
    assert faults(data, [sent._replace(expected="anomalous")]) != []
    lost = Sent("key-9", sent.sha256, "normal", {"id": "9", "decision": "normal"})
    assert faults(data, [lost]) == ["key-9: 0 rows"]
    next((data / "media").glob(f"*/*/*/{sent.inspection['id']}.png")).unlink()
    assert faults(data, [sent]) == ["key-1: the image is another one, or gone"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_station_with_open_streams_ends_in_time(station, number):
    streams = []
    for _ in range(5):
        stream = http.client.HTTPConnection("127.0.0.1", station.port, timeout=30)
        stream.request("GET", "/api/v1/events")
        answer = stream.getresponse()
        assert answer.readline() == b"event: hello\n"
        streams.append((stream, answer))

    assert station.stop(number) < 30  # an open stream would hold it for ever
    for stream, answer in streams:
        answer.read()
        stream.close()


def has_ended(process):
    """Whether a process is gone, or nobody has taken note of its end yet."""
    try:
        facts = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return True
    return facts.rpartition(")")[2].split()[0] == "Z"


def test_a_killed_station_takes_its_inspector_along(station):
    (inspector,) = station.inspectors()
    station.kill()

    wait_until(lambda: has_ended(inspector))
    station.start()
    station.wait_ready()


def test_a_second_station_is_refused_the_folder(tmp_path, station):
    command = command_in(tmp_path, free_port())
    refused = subprocess.run(command, capture_output=True, check=False, timeout=60)

    assert refused.returncode != 0
    assert b"serves one station at a time" in refused.stderr
    assert request(station.port, "GET", "/health/ready")[0] == 200


def test_an_image_is_stored_though_its_client_has_left(tmp_path, station):
    content = image_of(ENDLESS)
    head = (
        f"POST {INSPECTIONS} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(content)}\r\nIdempotency-Key: gone\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", station.port)) as client:
        client.sendall(head.encode() + content)
        media = tmp_path / "data" / "media"
        wait_until(lambda: list(media.glob("*/*/*/*.png")))

    headers = {"Idempotency-Key": "gone"}
    wait_until(lambda: b'"gone"' in request(station.port, "GET", INSPECTIONS)[1])
    station.wait_ready()  # the inspector was replaced
    again = request(station.port, "POST", INSPECTIONS, content, headers)
    assert again[0] == 200


def test_an_image_that_does_not_arrive_leaves_nothing(tmp_path, station):
    head = f"POST {INSPECTIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n"
    with socket.create_connection(("127.0.0.1", station.port)) as client:
        client.sendall(head.encode() + b"\r\n" + image_of(NORMAL)[:50])
        first_line = client.recv(100).partition(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", station.port)) as client:
        client.sendall(head.encode() + b"\r\n" + image_of(NORMAL)[:50])

    assert first_line == b"HTTP/1.1 408 Request Timeout"
    incoming = tmp_path / "data" / "media" / "incoming"
    wait_until(lambda: not list(incoming.iterdir()))
    assert b'"items":[]' in request(station.port, "GET", INSPECTIONS)[1]
