"""Reviews, golden samples, audit log and drift watch behind the HTTP interface."""

import csv
import io
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.station_fakes import (
    config_in,
    image_of,
    incidents,
    inspected,
    running,
    wait_until,
)
from tests.station_models import ANOMALOUS, NORMAL

from efficientad.datasets import open_category
from efficientad.station.audit_chain import Actor, Head, first_fault
from efficientad.station.storage import audit
from efficientad.station.storage.engine import open_database
from efficientad.station.watching.statistics import SourceDrift

API = "/api/v1"
NOTHING = {"id": "01a229cf-f437-76ec-9c23-970c09ff67ab"}


def inspect(client, brightness, seed, **query):
    return inspected(client, image_of(brightness, seed=seed), **query)


def review(client, part, verdict, **more):
    body = {"verdict": verdict, **more}
    return client.post(f"{API}/inspections/{part['id']}/reviews", json=body)


def get(client, path, **query):
    answer = client.get(f"{API}{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def entries_since(client, n):
    return [e for e in get(client, "/audit")["items"][::-1] if e["seq"] > n]


@pytest.fixture(scope="module")
def client(tmp_path_factory, each_database):
    config = config_in(tmp_path_factory.mktemp(each_database), review_share=0.0)
    with running(config) as client:
        yield client


def test_a_verdict_takes_a_part_out_of_the_queue_and_undo_brings_it_back(client):
    normal, anomalous = inspect(client, NORMAL, 1), inspect(client, ANOMALOUS, 2)
    before = get(client, "/review-queue")

    queued = {each["id"]: each["reason"] for each in before["items"]}
    assert queued[anomalous["id"]] == "anomalous"
    assert normal["id"] not in queued

    assert review(client, anomalous, "defect", defect_type="scratch").status_code == 201
    after = get(client, "/review-queue")
    assert anomalous["id"] not in {each["id"] for each in after["items"]}
    assert after["total"] == before["total"] - 1
    assert "scratch" in after["defect_types"]
    found = get(client, f"/inspections/{anomalous['id']}/reviews")
    assert found["counts"]["verdict"] == "defect"

    assert review(client, anomalous, "withdrawn").status_code == 201
    assert get(client, "/review-queue")["total"] == before["total"]
    assert review(client, anomalous, "withdrawn").status_code == 409
    n = get(client, "/audit/verify")["n"]
    assert review(client, normal, "withdrawn").status_code == 409
    assert get(client, "/audit/verify")["n"] == n


def test_the_last_verdict_counts_and_all_stay(client):
    part = inspect(client, ANOMALOUS, 1)
    verdicts = ["defect", "unsure", "normal", "withdrawn"]
    for verdict in verdicts:
        review(client, part, verdict)

    found = get(client, f"/inspections/{part['id']}/reviews")
    assert [each["verdict"] for each in found["items"]] == verdicts
    assert found["counts"]["verdict"] == "unsure"


@pytest.mark.parametrize(
    "body",
    [
        {"verdict": "fine"},
        {"verdict": "defect", "mark_all": True},
        {"verdict": "defect", "defect_type": "x" * 201},
        {},
    ],
)
def test_other_reviews_are_refused(client, body):
    part = inspect(client, NORMAL, 1)

    path = f"{API}/inspections/{part['id']}/reviews"
    assert client.post(path, json=body).status_code == 422


def test_changes_of_nothing_are_refused_and_not_recorded(client):
    golden = f"{API}/golden/{NOTHING['id']}"
    n = get(client, "/audit/verify")["n"]

    assert review(client, NOTHING, "defect").status_code == 404
    assert client.put(golden, json={"verdict": "normal"}).status_code == 404
    assert client.delete(golden).status_code == 404
    assert client.post(f"{API}/sources/unknown/pause").status_code == 404
    assert get(client, "/audit/verify")["n"] == n


def test_golden_samples_are_listed_and_taken_off(client):
    part = inspect(client, NORMAL, 1)
    path = f"{API}/golden/{part['id']}"

    assert client.put(path, json={"verdict": "normal"}).status_code == 204
    assert part["id"] in {each["inspection"] for each in get(client, "/golden")}
    assert get(client, f"/inspections/{part['id']}/reviews")["is_golden"]
    assert client.delete(path).status_code == 204
    assert part["id"] not in {each["inspection"] for each in get(client, "/golden")}
    assert not get(client, f"/inspections/{part['id']}/reviews")["is_golden"]


def test_every_action_is_in_the_audit_log_and_its_end_is_told(client):
    told = []

    def listen(kind, content):
        if kind == "audit":
            told.append(content)

    client.app.state.station.listeners.append(listen)
    part = inspect(client, ANOMALOUS, 1)
    n = get(client, "/audit/verify")["n"]
    review(client, part, "defect", note="deep")
    client.put(f"{API}/golden/{part['id']}", json={"verdict": "defect"})
    rule = {"model": part["model"], "version": 2, "threshold": 0.7, "budget": 0.01}
    made = client.post(f"{API}/rules", json={**rule, "reason": "fewer alarms"}).json()
    body = {"model": part["model"], "rule": made["id"], "reason": "tried"}
    assert client.post(f"{API}/activations", json=body).status_code == 202

    first = get(client, "/audit", limit=1000)["items"][::-1][:3]
    assert [each["action"] for each in first] == ["add model", "add rule", "activate"]
    assert {each["role"] for each in first} == {"station"}
    found = entries_since(client, n)
    assert [each["action"] for each in found] == [
        *("review", "golden sample", "add rule", "activate")
    ]
    assert {each["role"] for each in found} == {"engineer"}
    assert found[0]["after"]["verdict"] == "defect"
    assert found[2]["before"]["threshold"] == 0.5
    assert found[2]["after"]["threshold"] == 0.7
    assert found[2]["reason"] == "fewer alarms"
    assert found[3]["before"]["rule"] != found[3]["after"]["rule"] == made["id"]
    wait_until(lambda: told[-1:] == [{"seq": n + 4, "hash": found[-1]["hash"]}])
    verified = get(client, "/audit/verify")
    assert verified == {"n": n + 4, "hash": found[-1]["hash"], "fault": None}


def test_the_audit_log_is_read_page_by_page_and_as_a_table(client):
    part = inspect(client, ANOMALOUS, 1)
    for verdict in ("normal", "defect"):
        review(client, part, verdict, note="=1+1")
    numbers, before = [], 2**31 - 1
    while True:
        page = get(client, "/audit", limit=3, before=before)
        numbers += [each["seq"] for each in page["items"]]
        if (before := page["next"]) is None:
            break

    assert numbers == list(range(len(numbers), 0, -1))
    rows = list(csv.DictReader(io.StringIO(client.get(f"{API}/audit.csv").text)))
    assert [int(row["seq"]) for row in rows] == numbers[::-1]
    assert '"note":"=1+1"' in rows[-1]["after"]


def test_reviewed_parts_are_exported(client):
    for n in range(3):
        review(client, inspect(client, ANOMALOUS, n), "normal")
    review(client, inspect(client, ANOMALOUS, 7), "defect", defect_type="dent")

    job = client.post(f"{API}/exports").json()
    wait_until(lambda: get(client, f"/jobs/{job['id']}")["state"] != "running")

    done = get(client, f"/jobs/{job['id']}")
    assert done["state"] == "done", done
    category = open_category(Path(done["detail"].partition(", in ")[2]))
    assert len(category.train) + len(category.test) >= 4
    assert "dent" in {s.defect_type for s in category.test}


def test_drift_raises_an_alarm_that_is_acknowledged(client, monkeypatch):
    original = SourceDrift.__init__

    def sensitive(self, *arguments):
        original(self, *arguments)
        self.level = 5.0

    monkeypatch.setattr(SourceDrift, "__init__", sensitive)
    for n in range(3):
        inspect(client, ANOMALOUS, n, source="line 2")
    wait_until(lambda: get(client, "/drift")["alarms"])

    report = get(client, "/drift")
    (source,) = (s for s in report["sources"] if s["source"] == "line 2")
    rate = source["statistics"][-1]
    assert rate["statistic"] == "flag_rate"
    assert rate["value"] >= rate["level"] == 5.0
    assert len(rate["history"]) == source["n_parts"] >= 2
    (alarm,) = report["alarms"]
    assert (alarm["kind"], alarm["source"]) == ("flag_rate", "line 2")
    assert datetime.fromisoformat(alarm["since"]) < datetime.now(UTC)

    path = f"{API}/alarms/{alarm['id']}/acknowledge"
    assert client.post(path, json={"note": "a new lamp"}).status_code == 200
    assert client.post(path, json={"note": "again"}).status_code == 409
    report = get(client, "/drift")
    assert report["alarms"][0]["note"] == "a new lamp"
    assert get(client, "/audit")["items"][0]["reason"] == "a new lamp"
    unknown = f"{API}/alarms/{NOTHING['id']}/acknowledge"
    assert client.post(unknown, json={"note": ""}).status_code == 404


def test_a_new_rule_begins_a_new_epoch(client):
    def n_parts():
        sources = {s["source"]: s for s in get(client, "/drift")["sources"]}
        return sources["line 3"]["n_parts"] if "line 3" in sources else 0

    part = inspect(client, NORMAL, 1, source="line 3")
    inspect(client, NORMAL, 2, source="line 3")
    wait_until(lambda: n_parts() == 2)
    newest = get(client, "/rules")[0]["version"]
    rule = {"model": part["model"], "threshold": 0.6, "budget": 0.01}
    client.post(f"{API}/rules", json={**rule, "version": newest + 1})
    client.post(f"{API}/activations", json={"model": part["model"]})
    inspect(client, NORMAL, 3, source="line 3")

    wait_until(lambda: n_parts() == 1)


def test_a_rule_is_tried_on_stored_parts(client):
    parts = [inspect(client, level, 50) for level in (NORMAL, ANOMALOUS)]
    tried = {"model": parts[0]["model"], "threshold": 0.1, "budget": 0.01}

    def preview(**change):
        return client.post(f"{API}/rules/preview", json=tried | change)

    n_rules = len(get(client, "/rules"))
    low, high = preview().json(), preview(threshold=9).json()
    now = preview(threshold=parts[0]["threshold"]).json()

    assert low["n_flagged"] == low["n"] >= 2
    assert high["n_flagged"] == 0
    assert high["n_changed"] == high["n_flagged_before"] == low["n_flagged_before"]
    assert high["changed"][0]["id"] == parts[1]["id"]
    assert high["changed"][0]["decision_then"] == "normal"
    assert high["changed"][0]["decision"] == "anomalous"
    assert now["is_exact"]
    assert not {part["id"] for part in parts} & {part["id"] for part in now["changed"]}
    corner = [(0, 0), (0.1, 0), (0.1, 0.1)]
    ignored = {"name": "edge", "kind": "ignore", "points": corner}
    assert preview(regions=[ignored]).json()["n_flagged"] == low["n_flagged"]
    assert preview(threshold="high").status_code == 422
    assert preview(model="0" * 64).status_code == 404
    everything = [(0, 0), (1, 0), (1, 1), (0, 1)]
    nowhere = {"name": "all", "kind": "ignore", "points": everything}
    assert preview(regions=[nowhere]).status_code == 400
    assert len(get(client, "/rules")) == n_rules


def test_random_normal_parts_silence_and_a_restart(tmp_path):
    config = config_in(tmp_path, review_share=1.0, silent_seconds=0.2)
    with running(config) as client:
        parts = [inspect(client, NORMAL, n // 3) for n in range(5)]
        reasons = {each["reason"] for each in get(client, "/review-queue")["items"]}
        for part in parts[:4]:
            review(client, part, "normal")
        review(client, parts[4], "defect")
        missed = get(client, "/review-queue")["missed"]

        def kinds():
            return {each["kind"] for each in incidents(client)}

        def n_seen():
            return sum(each["n_parts"] for each in get(client, "/drift")["sources"])

        wait_until(lambda: {"identical_images", "silent_source"} <= kinds())
        wait_until(lambda: n_seen() == len(parts))
        before = get(client, "/drift")["sources"]
    with running(config) as client:
        wait_until(lambda: get(client, "/drift")["sources"])
        after = get(client, "/drift")["sources"]

    assert reasons == {"random"}
    assert (missed["n"], missed["n_defects"]) == (5, 1)
    assert missed["bound"] == pytest.approx(0.657, abs=0.001)
    assert after == before


def test_the_database_lets_nobody_change_the_audit_log(tmp_path):
    config = config_in(tmp_path)
    database = open_database(config.data)
    with database.writing.begin() as connection:
        for number in range(3):
            audit.append(connection, Actor("Ann", "operator"), "x", "y")
            assert audit.head(connection).seq == number + 1

    def fault():
        with database.connect() as connection:
            return first_fault(audit.entries(connection), head)

    head = database.read(audit.head)
    with sqlite3.connect(config.data / "station.db") as direct:
        for change in ("UPDATE audit SET actor = 'Eve'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="does not change"):
                direct.execute(change)
        assert fault() is None
        direct.execute("DROP TRIGGER audit_no_update")
        direct.execute("UPDATE audit SET actor = 'Eve' WHERE seq = 2")
        direct.commit()
    assert fault() == "entry 2 was changed"
    assert head == Head(3, head.hash)
    database.close()
