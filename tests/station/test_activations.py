"""Models and rules that take over while the line runs."""

import threading
from dataclasses import replace

import pytest
from tests.fake_engines import brightness_predictor
from tests.station_fakes import config_in, image_of, running, station_of, wait_until
from tests.station_models import ANOMALOUS, NORMAL, dangerous

from efficientad.errors import ModelFileError
from efficientad.station.storage import registry, tables

INSPECTIONS = "/api/v1/inspections"
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
def station(tmp_path):
    with running(config_in(tmp_path), named) as client:
        yield client


def post(client, brightness=NORMAL, **query):
    return client.post(INSPECTIONS, content=image_of(brightness), params=query).json()


def add_model(client, content):
    query = {"name": "strict.ead"}
    return client.post("/api/v1/models", content=content, params=query)


def test_another_model_takes_over_and_each_inspection_names_its_own(station):
    before = post(station)
    model = add_model(station, b"strict").json()
    activation = station.post(
        ACTIVATIONS, json={"model": model["sha256"], "reason": "new lamp"}
    )
    after = post(station)

    assert model["calibration"]["threshold"] == 0.1
    assert activation.status_code == 202
    assert activation.json()["active"]
    assert (before["decision"], before["threshold"]) == ("normal", 0.5)
    assert (after["decision"], after["threshold"]) == ("anomalous", 0.1)
    assert before["model"] != after["model"] == model["sha256"]
    listed = station.get(ACTIVATIONS).json()
    assert [each["active"] for each in listed] == [True, False]
    wait_until(lambda: len(station_of(station).lineup.pids) == 1)


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

    assert post(station)["decision"] == "normal"
    assert post(station, source="cell 2")["decision"] == "anomalous"


def test_a_new_rule_decides_from_its_activation_on(station):
    (first,) = station.get("/api/v1/rules").json()
    new = {"model": first["model"], "version": 2, "threshold": 0.2, "budget": 0.1}
    rule = station.post("/api/v1/rules", json=new)
    still = post(station)
    stale = station.post("/api/v1/rules", json=new)
    body = {"model": first["model"], "rule": rule.json()["id"]}
    station.post(ACTIVATIONS, json=body)

    assert rule.status_code == 201
    assert still["decision"] == "normal"
    assert stale.status_code == 409
    assert post(station)["decision"] == "anomalous"
    assert post(station)["rule"] == rule.json()["id"]


def test_golden_samples_that_disagree_keep_a_model_out(station):
    normal, anomalous = post(station), post(station, ANOMALOUS)
    samples = [(normal["id"], "normal"), (anomalous["id"], "defect")]
    writer = station_of(station).writer
    for number, verdict in samples:
        values = {"inspection": number, "verdict": verdict, "active": True, "by": "me"}
        query = tables.golden.insert().values(**values)
        writer.run(lambda c, query=query: c.execute(query))
    model = add_model(station, b"strict").json()["sha256"]
    refused = station.post(ACTIVATIONS, json={"model": model})
    first = station.get(ACTIVATIONS).json()[0]["model"]
    agreed = station.post(ACTIVATIONS, json={"model": first})

    assert refused.status_code == 409
    assert normal["id"] in refused.json()["detail"]
    assert agreed.status_code == 202
    assert agreed.json()["golden_run"] is not None
    assert post(station)["model"] == first


def test_activations_under_load_fail_no_request(station):
    models = [station.get("/api/v1/models").json()[0]["sha256"]]
    models.append(add_model(station, b"strict").json()["sha256"])
    is_over = threading.Event()
    answers: list[dict] = []

    def send():
        while not is_over.is_set():
            answers.append(post(station))

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(4):
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
    with running(config, named) as client:
        model = add_model(client, b"strict").json()["sha256"]
        client.post(ACTIVATIONS, json={"model": model})
    with running(config, named) as client:
        assert post(client)["model"] == model
    config.model.write_bytes(b"another file")
    with running(config, named) as client:
        assert post(client)["model"] != model  # a new file is there to be used
        with station_of(client).database.connect() as connection:
            assert len(registry.list_models(connection)) == 3
