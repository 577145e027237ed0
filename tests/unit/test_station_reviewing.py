"""Review queue, audit chain and golden samples."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from efficientad.station.audit_chain import (
    START,
    Actor,
    Head,
    canonical_json,
    first_fault,
    next_entry,
)
from efficientad.station.reviewing.queue import (
    missed_share,
    queue_reason,
)

SHARE = 0.005
ANN = Actor("Ann", "operator")
AT = datetime(2026, 11, 29, 14, 7, 3, 5, tzinfo=UTC)


def chain(n):
    entries, head = [], Head()
    for number in range(n):
        at, after = AT + timedelta(seconds=number), {"note": "ä", "score": 0.1 + number}
        entries.append(next_entry(head, at, ANN, "review", str(number), after=after))
        head = Head(entries[-1].seq, entries[-1].hash)
    return entries, head


@pytest.mark.parametrize(
    ("decision", "score", "reason"),
    [
        ("anomalous", 0.5, "anomalous"),
        ("undecided", None, "undecided"),
        ("normal", None, "undecided"),
        ("normal", 0.37, "close"),
        ("normal", 0.36, None),
        ("normal", 0.0, None),
    ],
)
def test_the_queue_has_what_is_not_clearly_normal(decision, score, reason):
    assert queue_reason("part 1", decision, score, 0.4, SHARE) == reason


def test_a_negative_threshold_has_close_scores_too():
    assert queue_reason("part 1", "normal", -0.42, -0.4, SHARE) == "close"
    assert queue_reason("part 1", "normal", -0.45, -0.4, SHARE) is None


def test_a_random_share_of_normal_parts_is_in_the_queue():
    found = [queue_reason(str(n), "normal", 0.0, 0.4, SHARE) for n in range(20_000)]

    close = [queue_reason(str(n), "normal", 0.39, 0.4, SHARE) for n in range(20_000)]

    assert set(found) == {None, "random"}
    # The share is one of all normal parts: else it would bound the missed ones too low.
    assert close.count("random") == found.count("random")
    assert abs(found.count("random") - 20_000 * SHARE) < 30


@pytest.mark.parametrize(
    ("n", "defects", "bound"),
    [(0, 0, 1.0), (59, 0, 0.0495), (300, 0, 0.00994), (100, 2, 0.0616), (5, 5, 1.0)],
)
def test_the_share_of_missed_defects_is_bounded(n, defects, bound):
    """Exact one-sided bounds of 95 %, from tables."""
    assert missed_share(n, defects) == pytest.approx(bound, rel=0.01)


def test_a_whole_chain_has_no_fault():
    entries, head = chain(5)

    assert entries[0].previous == START
    assert first_fault(entries, Head()) is None
    assert first_fault(entries, head) is None
    assert first_fault([], Head()) is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda e: [*e[:2], replace(e[2], reason="other"), *e[3:]], "entry 3 was chan"),
        (lambda e: [*e[:2], *e[3:]], "entry 3 is missing"),
        (lambda e: e[1:], "entry 1 is missing"),
        (lambda e: [e[1], e[0], *e[2:]], "entry 1 is missing"),
        (lambda e: [*e[:2], replace(e[2], previous=START), *e[3:]], "does not follow"),
        (lambda e: e[:4], "entries 5 to 5 are missing at the end"),
    ],
    ids=["change", "removal", "no start", "order", "new chain", "cut end"],
)
def test_a_changed_chain_is_noticed(change, fault):
    entries, head = chain(5)

    assert fault in str(first_fault(change(entries), head))


def test_a_chain_that_was_written_anew_is_noticed_by_a_kept_head():
    entries, head = chain(4)
    forged, _ = chain(3)
    eve, last = Actor("Eve", "operator"), Head(3, forged[-1].hash)
    forged.append(next_entry(last, AT, eve, "review", "3"))

    assert first_fault(forged, Head()) is None
    assert "another one than was kept" in str(first_fault(forged, head))
    assert first_fault(entries, head) is None


def test_canonical_json_has_one_form():
    assert canonical_json({"b": [1, 0.5], "a": "ä"}) == '{"a":"ä","b":[1,0.5]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_times_of_entries_are_utc():
    local = AT.astimezone(timezone(timedelta(hours=9)))
    entry = next_entry(Head(), AT, ANN, "login", "")

    assert next_entry(Head(), local, ANN, "login", "") == entry
    assert entry.at == "2026-11-29T14:07:03.000005+00:00"
