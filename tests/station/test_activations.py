"""Models and rules that take over while the line runs."""

import hashlib
import threading
from dataclasses import replace
from multiprocessing import active_children
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from tests.fake_engines import BrightnessEngine, brightness_predictor
from tests.image_files import encoded
from tests.station_fakes import (
    INSPECTIONS,
    config_in,
    post,
    running,
    station_of,
    wait_until,
)
from tests.station_models import ANOMALOUS, dangerous

from efficientad.engines.engine import EngineOutput
from efficientad.errors import ModelFileError
from efficientad.station.http.app import create_app

ACTIVATIONS = "/api/v1/activations"


def named(path, config):
    """Open a fake model by its content: one is damaged, one is strict."""
    match path.read_bytes():
        case b"damaged":
            raise ModelFileError("a model file was needed, this one is damaged")
        case b"strict":
            predictor = brightness_predictor()
            calibration = replace(predictor.calibration, normal_scores=(0.1,))
            return replace(predictor, calibration=calibration)
    return dangerous(path, config)


@pytest.fixture
def station(tmp_path, each_database):
    del each_database  # `config_in` knows it
    with running(config_in(tmp_path), named) as client:
        yield client


def n_recorded(client):
    return client.get("/api/v1/audit/verify").json()["n"]


def add_model(client, content):
    query = {"name": "strict.ead"}
    return client.post("/api/v1/models", content=content, params=query)


def test_another_model_takes_over_and_each_inspection_names_its_own(station):
    before, n_children = post(station).json(), len(active_children())
    model = add_model(station, b"strict").json()
    activation = station.post(
        ACTIVATIONS, json={"model": model["sha256"], "reason": "new lamp"}
    )
    after = post(station).json()

    assert model["calibration"]["threshold"] == 0.1
    assert activation.status_code == 202
    assert activation.json()["active"]
    assert (before["decision"], before["threshold"]) == ("normal", 0.5)
    assert (after["decision"], after["threshold"]) == ("anomalous", 0.1)
    assert before["model"] != after["model"] == model["sha256"]
    listed = station.get(ACTIVATIONS).json()
    assert [each["active"] for each in listed] == [True, False]
    wait_until(lambda: len(active_children()) == n_children)


def test_a_model_that_cannot_be_opened_is_refused(station):
    answer = add_model(station, b"damaged")

    assert answer.status_code == 422
    assert "this one is damaged" in answer.json()["detail"]
    assert len(station.get("/api/v1/models").json()) == 1
    folder = station_of(station).config.data / "models"
    assert len(list(folder.iterdir())) == 1


def test_a_source_may_have_its_own_model(station):
    model = add_model(station, b"strict").json()["sha256"]
    station.post(ACTIVATIONS, json={"model": model, "source": "cell 2"})

    assert post(station).json()["decision"] == "normal"
    assert post(station, source="cell 2").json()["decision"] == "anomalous"


def test_a_new_rule_decides_from_its_activation_on(station):
    (first,) = station.get("/api/v1/rules").json()
    new = {"model": first["model"], "version": 2, "threshold": 0.2, "budget": 0.1}
    rule = station.post("/api/v1/rules", json=new)
    still = post(station).json()
    stale = station.post("/api/v1/rules", json=new)
    body = {"model": first["model"], "rule": rule.json()["id"]}
    station.post(ACTIVATIONS, json=body)

    assert rule.status_code == 201
    assert still["decision"] == "normal"
    assert stale.status_code == 409
    assert post(station).json()["decision"] == "anomalous"
    assert post(station).json()["rule"] == rule.json()["id"]


def test_golden_samples_that_disagree_keep_a_model_out(station):
    normal, anomalous = post(station).json(), post(station, ANOMALOUS).json()
    samples = [(normal["id"], "normal"), (anomalous["id"], "defect")]
    for number, verdict in samples:
        station.put(f"/api/v1/golden/{number}", json={"verdict": verdict})
    model = add_model(station, b"strict").json()["sha256"]
    n_actions = n_recorded(station)
    refused = station.post(ACTIVATIONS, json={"model": model})
    assert n_recorded(station) == n_actions
    first = station.get(ACTIVATIONS).json()[0]["model"]
    agreed = station.post(ACTIVATIONS, json={"model": first})

    assert refused.status_code == 409
    assert normal["id"] in refused.json()["detail"]
    assert agreed.status_code == 202
    assert agreed.json()["golden_run"] is not None
    assert post(station).json()["model"] == first


def test_a_trial_tells_what_a_model_would_decide_and_changes_nothing(station):
    dark, normal, anomalous = (
        post(station, 20).json(),
        post(station).json(),
        post(station, ANOMALOUS).json(),
    )
    station.post(f"{INSPECTIONS}/{normal['id']}/reviews", json={"verdict": "normal"})
    model = add_model(station, b"strict").json()["sha256"]
    trials = f"/api/v1/models/{model}/trials"
    job = station.post(trials, json={"n": 3})
    assert job.status_code == 202
    place = f"/api/v1/jobs/{job.json()['id']}"
    wait_until(lambda: station.get(place).json()["state"] != "running")

    (done,) = station.get(trials).json()
    rules = station.get("/api/v1/rules", params={"model": model}).json()
    assert done["state"] == "done", done
    assert done["result"] == {
        "rule": rules[0]["id"],
        "n": 3,
        "n_flagged": 2,
        "n_flagged_before": 1,
        "n_reviewed": 1,
        "n_agreeing": 0,
        "n_agreeing_before": 1,
        "changed": {normal["id"]: "anomalous"},
    }
    assert {dark["decision"], post(station).json()["decision"]} == {"normal"}
    assert anomalous["decision"] == "anomalous"
    assert station.post(f"/api/v1/models/{'0' * 64}/trials", json={}).status_code == 404


def test_a_trial_by_an_unknown_rule_fails(station):
    (model,) = station.get("/api/v1/models").json()
    trials = f"/api/v1/models/{model['sha256']}/trials"
    rule = "01a229c9-2b0f-7505-a70e-51300368b131"
    station.post(trials, json={"rule": rule})
    wait_until(lambda: station.get(trials).json()[0]["state"] != "running")

    (job,) = station.get(trials).json()
    assert (job["state"], job["result"]) == ("failed", None)
    assert f"no rule {rule}" in job["detail"]


def test_activations_under_load_fail_no_request(station):
    models = [station.get("/api/v1/models").json()[0]["sha256"]]
    models.append(add_model(station, b"strict").json()["sha256"])
    is_over = threading.Event()
    answers: list[dict[str, Any]] = []

    def send():
        while not is_over.is_set():
            answers.append(post(station).json())

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2):
        body = {"model": models[(number + 1) % 2]}
        assert station.post(ACTIVATIONS, json=body).status_code == 202
    is_over.set()
    for thread in threads:
        thread.join()

    assert {each.get("decision") for each in answers} == {"normal", "anomalous"}
    thresholds = {each["model"]: each["threshold"] for each in answers}
    assert thresholds == {models[0]: 0.5, models[1]: 0.1}


def test_a_model_that_was_active_is_so_after_a_new_start(tmp_path):
    config = config_in(tmp_path)
    first = config.model.read_bytes()
    with running(config, named) as client:
        model = add_model(client, b"strict").json()["sha256"]
        client.post(ACTIVATIONS, json={"model": model})
    with running(config, named) as client:
        assert post(client).json()["model"] == model
    config.model.write_bytes(b"another file")
    with running(config, named) as client:
        assert post(client).json()["model"] != model  # a new file is there to be used
        assert len(client.get("/api/v1/models").json()) == 3
    config.model.write_bytes(first)
    with running(config, named) as client:
        assert post(client).json()["model"] == hashlib.sha256(first).hexdigest()


def test_a_new_file_that_golden_samples_keep_out_stays_out_after_a_new_start(tmp_path):
    config = config_in(tmp_path)
    with running(config, named) as client:
        number = post(client).json()["id"]
        client.put(f"/api/v1/golden/{number}", json={"verdict": "normal"})
    config.model.write_bytes(b"strict")
    for _ in range(2):
        with TestClient(create_app(config, named)) as client:
            wait_until(lambda: "cannot be used" in client.get("/health/ready").text)


class Corner(BrightnessEngine):
    """Its maps are the brightness of each place of the image."""

    def run(self, pixels):
        """Compute two maps of each image."""
        gray = pixels.mean(3, dtype=np.float32)[:, 16:240:4, 16:240:4] / 255
        return EngineOutput({"local": gray, "global": gray})


def by_place(_path, _config):
    return replace(brightness_predictor(), engine=Corner())


def spotted(left, top, side=64):
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[top : top + side, left : left + side] = 200
    return encoded(Image.fromarray(pixels), "PNG")


LEFT = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]


@pytest.mark.parametrize(
    ("rule", "left", "right"),
    [
        ({}, "anomalous", "anomalous"),
        ({"min_area": 64 * 64 * 4}, "normal", "normal"),
        ({"min_area": 60 * 60}, "anomalous", "anomalous"),
        ({"regions": [("interest", LEFT)]}, "anomalous", "normal"),
        ({"regions": [("ignore", LEFT)]}, "normal", "anomalous"),
        (
            {"regions": [("interest", LEFT), ("ignore", LEFT[:3])]},
            "anomalous",
            "normal",
        ),
    ],
)
def test_a_rule_says_where_and_from_which_area_a_defect_counts(
    placed, rule, left, right
):
    (newest, *_) = placed.get("/api/v1/rules").json()
    regions = [
        {"name": f"r{n}", "kind": kind, "points": points}
        for n, (kind, points) in enumerate(rule.get("regions", ()))
    ]
    new = {**rule, "regions": regions, "threshold": 0.5, "budget": 0.05}
    new |= {"model": newest["model"], "version": newest["version"] + 1}
    number = placed.post("/api/v1/rules", json=new).json()["id"]
    body = {"model": newest["model"], "rule": number}
    assert placed.post(ACTIVATIONS, json=body).status_code == 202
    answers = [
        placed.post(INSPECTIONS, content=spotted(x, 150)).json() for x in (100, 400)
    ]

    assert [answer["decision"] for answer in answers] == [left, right]
    for answer, x in zip(answers, (100, 400), strict=True):
        assert answer["image_score"] == pytest.approx(200 / 255, abs=0.02)
        if answer["decision"] == "anomalous":
            (region,) = answer["regions"]
            assert region["x"] == pytest.approx(x, abs=6)
            assert region["y"] == pytest.approx(150, abs=6)
            assert region["area"] == pytest.approx(64 * 64, rel=0.2)
            has_interest = any(each["kind"] == "interest" for each in regions)
            assert region["name"] == ("r0" if has_interest else None)
        else:
            assert answer["regions"] == []
            assert answer["masked_score"] <= 0.5


@pytest.fixture(scope="module")
def placed(tmp_path_factory, each_database):
    with running(config_in(tmp_path_factory.mktemp(each_database)), by_place) as client:
        yield client


def unsure(_path, _config):
    predictor = brightness_predictor()
    scores = (0.1, 0.2, 0.5)
    calibration = replace(
        predictor.calibration,
        normal_scores=scores,
        false_alarm_budget=0.25,
        unsure_budget=0.5,
    )
    return replace(predictor, calibration=calibration)


def test_an_unsure_part_is_undecided_and_queued(tmp_path):
    with running(config_in(tmp_path), unsure) as client:
        answers = [post(client, level).json() for level in (40, 90, 200)]

    decisions = [each["decision"] for each in answers]
    assert decisions == ["normal", "undecided", "anomalous"]
    assert [each["review_state"] for each in answers[1:]] == ["queued"] * 2
    assert answers[1]["error"] is None
    assert answers[1]["image_score"] == pytest.approx(90 / 255)


def test_regions_that_leave_no_place_to_look_at_are_refused(station):
    (first,) = station.get("/api/v1/rules").json()
    points = [[0, 0], [1, 0], [1, 1], [0, 1]]
    rule = {name: first[name] for name in ("model", "threshold", "budget")}
    rule |= {
        "version": 2,
        "regions": [{"name": "all", "kind": "ignore", "points": points}],
    }

    answer = station.post("/api/v1/rules", json=rule)

    assert answer.status_code == 400
    assert "mark where defects count" in answer.json()["detail"]
