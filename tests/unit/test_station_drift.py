"""The drift watch keeps its rate of false alarms, and notices drift soon."""

from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from efficientad.station.chance import chance
from efficientad.station.watching.drift import Evidence, RankDrift, RateDrift
from efficientad.station.watching.statistics import (
    N_LEARNED,
    STATISTICS,
    Part,
    SourceDrift,
)
from lab.experiments.station_drift.run import (
    Streams,
    delays,
    n_alarms,
    n_alarms_allowed,
)

NULL = Streams(n=60, n_parts=400, parts_per_false_alarm=2_000)


def part(number, score=0.0, brightness=100.0, *, is_anomalous=False):
    return Part(str(number), score, is_anomalous, brightness, 40.0, 0.1)


@pytest.mark.parametrize("is_rounded", [False, True])
def test_streams_without_drift_keep_the_rate_of_false_alarms(is_rounded):
    streams = replace(NULL, is_rounded=is_rounded)

    assert n_alarms(streams) <= n_alarms_allowed(streams) < 22


def test_p_values_of_a_fixed_calibration_do_not_keep_it():
    """The positive control of the test above."""
    streams = replace(NULL, has_fixed_reference=True, n_calibration=10)

    assert n_alarms(streams) > n_alarms_allowed(streams)


@pytest.mark.parametrize(("shift", "n_parts"), [(1.0, 100), (0.5, 220)])
def test_a_shift_is_found_in_time(shift, n_parts):
    streams = Streams(n=25, n_parts=1300, shift=shift, n_before=500)

    assert median(delays(streams)) <= n_parts


def test_p_values_count_greater_and_equal_numbers():
    drift = RankDrift([1.0, 2.0, 2.0, 3.0])

    assert drift._p_value(2.0, 0.5) == (1 + 0.5 * 3) / 5
    assert drift.seen == [1.0, 2.0, 2.0, 2.0, 3.0]
    assert drift._p_value(9.0, 0.0) == 0
    assert drift._p_value(0.0, 0.25) == (6 + 0.25) / 7


def test_p_values_are_uniform_also_with_ties():
    rng = np.random.default_rng(0)
    drift = RankDrift([])
    numbers = rng.integers(0, 4, 4000).tolist()
    found = [drift._p_value(x, float(u)) for x, u in zip(numbers, rng.random(4000))]  # noqa: B905

    shares, _ = np.histogram(found, bins=10, range=(0, 1))
    assert abs(shares - 400).max() < 4 * np.sqrt(400)


def test_a_bet_has_the_mean_one():
    drift = RankDrift([])
    drift._weights = [0.7, 0.1, 0.2]
    total = 0.0
    for p_value in (np.arange(1000) + 0.5) / 1000:
        other = RankDrift([], _weights=list(drift._weights))
        total += other._won(float(p_value))

    assert total / 1000 == pytest.approx(1)


@pytest.mark.parametrize("q", [0.01, 0.05, 0.4])
def test_a_bet_on_the_rate_has_the_mean_one(q):
    flagged, normal = RateDrift(q), RateDrift(q)
    flagged.add(is_flagged=True, part="1")
    normal.add(is_flagged=False, part="1")

    mean = q * flagged.evidence.value + (1 - q) * normal.evidence.value
    assert mean == pytest.approx(1)


def test_evidence_is_that_of_shiryaev_and_roberts():
    evidence = Evidence()
    for number, factor in enumerate((2.0, 0.5, 0.25, 3.0, 1.5)):
        evidence.add(factor, str(number))

    assert evidence.value == ((((2 + 1) * 0.5 + 1) * 0.25 + 1) * 3 + 1) * 1.5
    assert evidence.since == "3"


def test_evidence_stays_finite():
    evidence = Evidence()
    for number in range(3000):
        evidence.add(1.5, str(number))

    assert np.isfinite(evidence.value)
    assert evidence.since == "0"


def test_the_part_since_when_is_near_the_shift():
    rng = np.random.default_rng(1)
    drift = RankDrift(sorted(rng.normal(size=100).tolist()))
    for number, value in enumerate(rng.normal(size=700)):
        drift.add(value + (number >= 600), str(number), float(rng.random()))

    assert drift.evidence.since is not None
    assert 570 <= int(drift.evidence.since) <= 620


def test_scores_at_or_above_the_threshold_are_no_drift_of_the_score():
    drift = SourceDrift([0.1, 0.2, 0.5], 0.4, 0.05)
    for number in range(300):
        drift.add(part(number, score=0.4 + number, is_anomalous=True))

    readings = {reading.statistic: reading for reading in drift.readings()}
    assert tuple(readings) == STATISTICS
    assert drift.score.seen == [0.1, 0.2]
    assert readings["score"].evidence.n_parts == 0
    assert readings["flag_rate"].is_alarm


def test_appearance_is_watched_after_it_was_learned():
    rng = np.random.default_rng(2)
    drift = SourceDrift([], 1.0, 0.05)
    for number in range(N_LEARNED + 100):
        value = rng.normal(100, 5) + (30 if number >= N_LEARNED + 40 else 0)
        drift.add(part(number, rng.random(), brightness=value))
        if number == N_LEARNED - 1:
            assert all(r.evidence.n_parts == 0 for r in drift.readings()[1:4])

    alarms = [r.statistic for r in drift.readings() if r.is_alarm]
    assert alarms == ["brightness"]


def test_chances_are_uniform_and_repeatable():
    found = np.array([chance(str(n), "score") for n in range(4000)])

    assert chance("7", "score") == found[7] != chance("7", "contrast")
    assert abs(found.mean() - 0.5) < 0.02
    assert 0 <= found.min() < found.max() < 1
