"""Images in, stored decisions out, through the real interface and process."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.station_fakes import (
    INSPECTIONS,
    config_in,
    image_of,
    incidents,
    inspected,
    is_ready,
    post,
    running,
    station_of,
    wait_until,
)
from tests.station_models import ANOMALOUS, DEADLY, NORMAL


@pytest.fixture(scope="module")
def station(tmp_path_factory, each_database):
    config = config_in(tmp_path_factory.mktemp(each_database), review_share=0.0)
    with running(config) as client:
        yield client


@pytest.mark.parametrize(
    ("brightness", "decision", "review"),
    [(NORMAL, "normal", None), (ANOMALOUS, "anomalous", "queued")],
)
def test_an_image_is_decided_and_stored_as_it_came(
    station, brightness, decision, review
):
    content = image_of(brightness)
    answer = post(station, content, part="P 17", expect="normal")
    found = answer.json()

    assert answer.status_code == 201
    assert answer.headers["location"] == f"{INSPECTIONS}/{found['id']}"
    assert found["decision"] == decision
    assert found["image_score"] == pytest.approx(brightness / 255)
    assert found["threshold"] == 0.5
    assert (found["height"], found["width"]) == (32, 32)
    assert found["brightness"] == pytest.approx(brightness, abs=1)
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert (found["part"], found["expected"]) == ("P 17", "normal")
    assert found["review_state"] == review
    stored = station.get(f"{INSPECTIONS}/{found['id']}")
    assert stored.json() == found
    assert station.get(f"{INSPECTIONS}/{found['id']}/image").content == content


def test_an_image_with_blue_first_is_inspected_and_shown_in_its_colors(station):
    blue_first = np.full((32, 32, 3), (250, 10, 10), np.uint8)
    file = BytesIO()
    Image.fromarray(blue_first).save(file, "PNG")
    found = post(station, file.getvalue(), color="bgr").json()

    assert found["color"] == "bgr"
    for kind in ("preview", "thumbnail"):
        answer = station.get(f"{INSPECTIONS}/{found['id']}/{kind}")
        picture = np.asarray(Image.open(BytesIO(answer.content)))
        red, _, blue = picture[16, 16].tolist()
        assert (red < 40, blue > 220) == (True, True)
    stored = station.get(f"{INSPECTIONS}/{found['id']}/image").content
    assert stored == file.getvalue()
    assert post(station, file.getvalue(), color="hsv").status_code == 422


def test_the_file_is_in_its_minute_and_nothing_is_left_incoming(station):
    found = post(station, image_of(NORMAL, seed=1)).json()
    media = station_of(station).config.data / "media"
    (path,) = media.glob(f"*/*/*/{found['id']}.png")
    minute = path.relative_to(media).parent.as_posix()

    assert found["received_at"].startswith(minute.replace("/", "T", 1)[:13])
    assert not list((media / "incoming").iterdir())


def test_pictures_of_an_inspection_have_its_maps(station):
    number = post(station, image_of(NORMAL, size=64)).json()["id"]
    place = f"{INSPECTIONS}/{number}"
    heatmap = Image.open(BytesIO(station.get(f"{place}/heatmap?map=local").content))
    values = tifffile.imread(BytesIO(station.get(f"{place}/map").content))

    assert heatmap.size == (64, 64)
    assert "transparency" in heatmap.info
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, NORMAL / 255, atol=1e-6)
    for name in ("preview", "thumbnail"):
        picture = Image.open(BytesIO(station.get(f"{place}/{name}").content))
        assert picture.size == (64, 64)
    assert station.get(f"{place}/map?map=other").status_code == 404


def test_a_known_key_gives_the_stored_answer(station):
    first = post(station, image_of(NORMAL), key="part-1")
    again = post(station, image_of(NORMAL), key="part-1")
    other = post(station, image_of(ANOMALOUS), key="part-1")
    elsewhere = post(station, image_of(ANOMALOUS), key="part-1", source="line 2")

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert other.status_code == 422
    assert "was used for another" in other.json()["detail"]
    assert elsewhere.status_code == 201


def test_requests_with_one_key_at_the_same_time_share_one_inspection(station):
    content = image_of(NORMAL, seed=2)
    start = threading.Barrier(8)

    def send(_):
        start.wait()
        return post(station, content, key="together")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))

    assert {answer.status_code for answer in answers} <= {200, 201}
    assert [a.status_code for a in answers].count(201) == 1
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_batch_has_a_result_or_a_problem_for_each_image(station):
    files = [
        ("images", ("a.png", image_of(NORMAL))),
        ("images", ("b.png", b"this is no image")),
        ("images", ("../c.png", image_of(ANOMALOUS))),
    ]
    results = station.post(f"{INSPECTIONS}/batch", files=files).json()

    assert [r["name"] for r in results] == ["a.png", "b.png", "../c.png"]
    assert [r["inspection"] and r["inspection"]["decision"] for r in results] == [
        "normal",
        None,
        "anomalous",
    ]
    assert results[1]["problem"]["status"] == 415


def test_inspections_are_listed_newest_first_in_pages(station):
    numbers = [
        post(station, image_of(NORMAL), source="paged").json()["id"] for _ in range(5)
    ]
    query = {"source": "paged", "limit": 2}
    pages, before = [], None
    while True:
        params = query if before is None else {**query, "before": before}
        page = station.get(INSPECTIONS, params=params).json()
        pages += [item["id"] for item in page["items"]]
        before = page["next"]
        if before is None:
            break

    assert pages == numbers[::-1]
    found = station.get(
        INSPECTIONS, params={"source": "paged", "decision": "anomalous"}
    )
    assert found.json()["items"] == []


def test_a_crash_leaves_the_image_undecided_and_others_are_predicted(station):
    levels = [NORMAL, NORMAL, DEADLY, NORMAL, ANOMALOUS, NORMAL]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(partial(inspected, station), levels))
    decisions = [each["decision"] for each in found]

    expected = ["normal", "normal", "undecided", "normal", "anomalous", "normal"]
    assert decisions == expected
    assert "twice" in found[2]["error"]
    wait_until(lambda: is_ready(station))
    assert "inspector_died" in {each["kind"] for each in incidents(station)}


def test_metrics_count_decisions(station):
    post(station, image_of(NORMAL), source="counted")
    text = station.get("/metrics").text

    line = 'efficientad_inspections_total{decision="normal",source="counted"} 1.0'
    assert line in text.splitlines()
    assert "efficientad_last_stored_timestamp_seconds" in text


def test_a_challenge_part_that_passes_is_an_incident(station):
    post(station, image_of(ANOMALOUS), expect="anomalous")
    passed = post(station, image_of(NORMAL), expect="anomalous").json()["id"]

    def challenges():
        found = incidents(station)
        return [each for each in found if each["kind"] == "challenge_passed"]

    wait_until(challenges)
    assert [each["detail"] for each in challenges()] == [f"http: {passed}"]
