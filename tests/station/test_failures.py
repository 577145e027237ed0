"""A disk, a database or a model that fails: no answer is lost, and none is invented."""

import errno
import io
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from tests.station_fakes import (
    INSPECTIONS,
    config_in,
    image_of,
    incidents,
    is_ready,
    listed,
    post,
    running,
    station_of,
    wait_until,
)
from tests.station_models import ANOMALOUS, ENDLESS, NORMAL, SLOW, deadly_once, held

from efficientad.errors import ModelFileError
from efficientad.station.http import uploads
from efficientad.station.http.app import create_app
from efficientad.station.prediction.supervisor import Inspector
from efficientad.station.storage import media

READY = "/health/ready"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    config = config_in(tmp_path_factory.mktemp("station"), prediction_seconds=1.0)
    with running(config) as client:
        yield client


@pytest.fixture
def station(impatient):
    """A station that takes images: on a busy machine it has just replaced a process."""
    wait_until(lambda: is_ready(impatient))
    return impatient


def inspector_of(client):
    (active,) = station_of(client).lineup._active.values()
    return active.inspector


def test_a_locked_database_is_a_503_and_the_image_is_stored_once_it_is_free(station):
    n_before = len(listed(station))
    path = station_of(station).config.data / "station.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = post(station, key="locked")
    problem = station.get(READY).json()["problem"]
    at_once = post(station, key="locked")

    assert answer.status_code == at_once.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert "retry-after" in answer.headers
    assert "locked" in answer.json()["detail"]
    assert problem == "the database cannot be written"
    assert at_once.json()["detail"] == problem  # it does not wait for the lock again
    assert station.get("/health/live").status_code == 200
    assert len(listed(station)) == n_before  # reading works meanwhile
    other.execute("ROLLBACK")
    other.close()
    wait_until(lambda: is_ready(station))
    assert post(station, key="locked").status_code == 201
    assert len(listed(station)) == n_before + 1


def test_a_full_database_is_a_503_until_there_is_room(station):
    writer = station_of(station).writer
    n_pages = writer.run(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
    limit = f"PRAGMA max_page_count={n_pages}"
    writer.run(lambda c: c.exec_driver_sql(limit).scalar())
    answers = [post(station) for _ in range(20)]

    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert "full" in refused[0].json()["detail"]
    wait_until(lambda: is_ready(station))  # a new connection has no limit
    assert post(station).status_code == 201


@pytest.mark.parametrize(
    "place", [(media, "synchronize"), (uploads, "run_in_threadpool")]
)
def test_a_full_disk_is_a_503_until_a_probe_file_is_kept(station, monkeypatch, place):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    n_before = len(listed(station))
    with monkeypatch.context() as patch:
        patch.setattr(media, "synchronize", full)
        patch.setattr(*place, full)
        answer = post(station)
        others = [post(station) for _ in range(3)]

    assert answer.status_code == 503
    assert "No space left on device" in answer.json()["detail"]
    assert {other.status_code for other in others} == {503}
    assert len(listed(station)) == n_before
    wait_until(lambda: is_ready(station))
    assert post(station).status_code == 201


def test_a_disk_that_is_almost_full_takes_no_images(tmp_path):
    config = config_in(tmp_path, min_free_mb=10**6)
    with TestClient(create_app(config)) as client:
        answer = post(client)

    assert answer.status_code == 503
    assert "the disk has only" in answer.json()["detail"]


def test_a_prediction_that_hangs_is_undecided_and_the_next_one_is_predicted(station):
    with ThreadPoolExecutor(2) as pool:
        hanging = pool.submit(post, station, ENDLESS)
        wait_until(lambda: inspector_of(station).n_waiting == 1)
        after = pool.submit(post, station, ANOMALOUS)

    found = hanging.result().json()
    assert found["decision"] == "undecided"
    assert found["image_score"] is None
    assert found["review_state"] == "queued"
    assert "longer than 1 seconds" in found["error"]
    assert after.result().json()["decision"] == "anomalous"
    thumbnail = station.get(f"{INSPECTIONS}/{found['id']}/thumbnail")
    assert thumbnail.status_code == 410
    assert station.get(f"{INSPECTIONS}/{found['id']}/image").status_code == 200
    wait_until(lambda: is_ready(station))


def test_an_outcome_that_comes_too_late_stops_nothing(tmp_path, monkeypatch):
    original = Inspector._give_up

    def give_up(inspector):
        original(inspector)
        time.sleep(2)  # meanwhile the outcome comes

    monkeypatch.setattr(Inspector, "_give_up", give_up)
    with running(config_in(tmp_path, prediction_seconds=1.0)) as client:
        late = post(client, SLOW).json()
        wait_until(lambda: post(client, NORMAL).json().get("decision") == "normal")

    assert late["decision"] == "undecided"


def test_without_a_place_an_image_is_refused_before_it_is_read(tmp_path):
    with running(config_in(tmp_path, max_places=1, prediction_seconds=2.0)) as client:
        with ThreadPoolExecutor(1) as pool:
            hanging = pool.submit(post, client, ENDLESS)
            taken = station_of(client).admission
            wait_until(lambda: taken.n_taken == 1)
            refused = post(client)
            files = [("images", ("a.png", image_of(NORMAL)))]
            whole_batch = client.post(f"{INSPECTIONS}/batch", files=files)
        assert hanging.result().json()["decision"] == "undecided"
        assert 'shed_total{source="http"} 2.0' in client.get("/metrics").text

    assert refused.status_code == whole_batch.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert taken.n_taken == 0


def test_a_client_over_its_rate_is_refused(tmp_path):
    with running(config_in(tmp_path, requests_per_second=0.01)) as client:
        answers = [post(client).status_code for _ in range(2)]

    assert answers == [201, 429]


def broken(_path, _config):
    raise ModelFileError("a model was needed, this is none")


def test_a_model_that_cannot_be_opened_is_told_and_nothing_is_taken(tmp_path):
    with TestClient(create_app(config_in(tmp_path), broken)) as client:
        wait_until(lambda: "used" in client.get(READY).json()["problem"])
        answer = post(client)

    assert answer.status_code == 503
    assert answer.json()["detail"] == (
        "the model cannot be used: a model was needed, this is none"
    )


def test_a_process_that_dies_at_the_start_is_started_again(tmp_path):
    with running(config_in(tmp_path), deadly_once) as client:
        answer = post(client)
        kinds = {each["kind"] for each in incidents(client)}

    assert answer.status_code == 201
    assert "inspector_died" in kinds


def test_without_its_process_a_station_refuses_images_and_loses_none(tmp_path):
    config = config_in(tmp_path)
    with running(config, held) as client:
        first = post(client, key="a")
        inspector_of(client)._process.kill()
        wait_until(lambda: not is_ready(client))
        refused = [post(client, key=key) for key in ("a", "b")]
        (config.data / "models" / "go").touch()
        wait_until(lambda: is_ready(client))
        again = [post(client, key=key) for key in ("a", "b")]

        assert [each.status_code for each in refused] == [503, 503]
        assert all("retry-after" in each.headers for each in refused)
        assert [each.status_code for each in again] == [200, 201]
        assert again[0].json() == first.json()
        assert len(listed(client)) == 2


def test_a_stopped_and_started_station_knows_what_it_had(tmp_path):
    config = config_in(tmp_path)
    with running(config) as client:
        first = post(client, key="a").json()
    with running(config) as client:
        again = post(client, key="a")
        activations = client.get("/api/v1/activations").json()

    assert again.status_code == 200
    assert again.json() == first
    assert len(activations) == 1


def test_files_nobody_was_told_of_go_and_lost_ones_are_an_incident(tmp_path):
    config = config_in(tmp_path)
    with running(config) as client:
        kept, lost = (post(client).json()["id"] for _ in range(2))
    folder = config.data / "media"
    (path,) = folder.glob(f"*/*/*/{lost}.png")
    path.unlink()
    unanswered = path.with_name("unanswered.png")
    unanswered.write_bytes(b"x")
    (folder / "incoming" / "x.part").write_bytes(b"x")
    with running(config) as client:
        wait_until(lambda: not unanswered.exists())
        wait_until(lambda: incidents(client))
        (incident,) = incidents(client)
        wait_until(lambda: client.get(f"{INSPECTIONS}/{lost}/image").status_code == 410)
        assert client.get(f"{INSPECTIONS}/{kept}/image").status_code == 200

    assert incident["kind"] == "images_missing"
    assert lost in incident["detail"]
    assert not list((folder / "incoming").iterdir())


def test_a_log_that_cannot_be_written_stops_no_inspection(station, monkeypatch):
    class Gone(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Gone())
        answer = post(station)

    assert answer.status_code == 201
