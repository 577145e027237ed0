"""Thresholds and p-values from normal scores alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientad.decisions.decision import Calibration, TermScale
from efficientad.errors import ConfigError, ModelFileError
from efficientad.inspection.prediction import Prediction
from efficientad.method.maps import MapScale

SCALE = MapScale(0.0, 1.0)
SCALES = {"local": SCALE, "global": SCALE}


def calibration_of(scores, budget=0.01, threshold=None):
    return Calibration(SCALES, tuple(sorted(scores)), budget, threshold)


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5]), min_size=1, max_size=40),
    st.sampled_from([-1.0, 0.1, 0.15, 0.3, 9.0]),
)
def test_a_p_value_counts_the_normal_scores_that_are_as_high(scores, score):
    expected = (1 + sum(s >= score for s in scores)) / (1 + len(scores))

    assert calibration_of(scores).p_value(score) == pytest.approx(expected)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=300),
    st.sampled_from([0.01, 0.05, 0.1, 0.5]),
)
def test_the_threshold_keeps_the_budget_or_is_the_highest_score(scores, budget):
    calibration = calibration_of(scores, budget)

    guaranteed = calibration.guaranteed_false_alarm_rate
    if calibration.n_more_images_needed == 0:
        assert guaranteed <= budget + 1e-12
    else:
        assert calibration.threshold == max(scores)
        assert guaranteed == 1 / (len(scores) + 1)


def test_99_images_are_enough_for_one_percent():
    assert calibration_of([0.1] * 99).n_more_images_needed == 0
    assert calibration_of([0.1] * 98).n_more_images_needed == 1


def test_the_promise_holds_for_new_normal_images():
    """Scores from one distribution: the mean false-alarm rate meets the budget."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        threshold = calibration_of(rng.normal(size=60).tolist(), 0.05).threshold
        rates.append(np.mean(rng.normal(size=200) > threshold))

    assert np.mean(rates) == pytest.approx(0.05, abs=0.006)


def test_a_threshold_by_hand_replaces_the_derived_one():
    calibration = calibration_of([0.1, 0.2, 0.3], threshold=0.15)

    assert calibration.threshold == 0.15
    assert calibration.guaranteed_false_alarm_rate == 3 / 4


def test_a_threshold_by_hand_leaves_the_range_of_normal_scores():
    by_hand = calibration_of([0.1, 0.2, 0.4], threshold=0.15)

    assert by_hand.normal_range == (0.2, 0.4)
    assert by_hand.normal_range == calibration_of([0.1, 0.2, 0.4]).normal_range


def test_the_statement_says_how_many_images_are_missing():
    statement = calibration_of([0.1] * 20).statement()

    assert statement == (
        "20 held-out normal images guarantee at most 4.8 % false alarms; "
        "79 more are needed for 1 %"
    )


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_not_called_normal(score):
    with pytest.raises(ModelFileError, match=f"gives {score}; use a higher precision"):
        calibration_of([0.1, 0.2]).p_value(score)


@pytest.mark.parametrize(
    "scores", [(), (0.2, 0.1), (math.nan,), (0.1, math.nan), (0.1, math.inf)]
)
def test_scores_that_give_no_threshold_are_refused(scores):
    with pytest.raises(ConfigError):
        Calibration(SCALES, scores)


def test_a_calibration_needs_a_map():
    with pytest.raises(ConfigError, match="the scale of at least one map"):
        Calibration({}, (0.1,))


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, math.nan)])
def test_quantiles_without_a_scale_are_refused(low, high):
    with pytest.raises(ConfigError):
        MapScale(low, high)


def test_a_prediction_places_its_maps_at_the_images_own_size():
    ones = np.ones((56, 56), np.float32)
    prediction = Prediction(
        image_score=0.4,
        p_value=0.1,
        threshold=0.4,
        height=20,
        width=30,
        grids={"local": ones, "global": 3 * ones},
    )

    assert not prediction.is_anomalous
    np.testing.assert_allclose(prediction.anomaly_map, np.full((20, 30), 2), rtol=1e-6)
    np.testing.assert_allclose(prediction.map("local"), np.full((20, 30), 1), rtol=1e-6)
    np.testing.assert_allclose(
        prediction.map("global"), np.full((20, 30), 3), rtol=1e-6
    )


@pytest.mark.parametrize("limits", [(0.1, None), (None, 0.1), (0.0, 1.0), (2.0, 1.0)])
def test_levels_need_two_limits_in_order(limits):
    with pytest.raises(ConfigError, match="two limits, positive and in order"):
        MapScale(0.0, 1.0, *limits)


def prediction_of(score, highest):
    grid = np.full((56, 56), highest, np.float32)
    return Prediction(score, 0.1, 0.4, 20, 30, {"local": grid, "global": grid})


@pytest.mark.parametrize(
    ("score", "highest", "reason"),
    [(0.3, 0.5, ""), (0.5, 0.5, "place"), (0.5, 0.3, "composition")],
)
def test_an_image_is_flagged_for_a_place_or_for_its_composition(score, highest, reason):
    assert prediction_of(score, highest).flagged_for == reason


def estimated(scores, training=(), budget=0.03):
    return Calibration(
        SCALES,
        tuple(sorted(scores)),
        budget,
        training_scores=tuple(sorted(training)),
        threshold_rule="estimate",
    )


def test_the_threshold_is_estimated_from_all_normal_images():
    rng = np.random.default_rng(0)
    training = rng.normal(size=270).tolist()
    calibration = estimated([*rng.normal(size=29), 9.0], training)

    assert calibration.threshold == pytest.approx(1.88, abs=0.25)
    assert calibration.n_flagged == 2
    assert "from the scores of 300 normal images" in calibration.statement()
    assert (
        "30 held-out normal images guarantee at most 9.7 %" in calibration.statement()
    )


def test_the_tail_is_estimated_from_few_images():
    rng = np.random.default_rng(0)
    found = [estimated(rng.normal(size=30).tolist()).threshold for _ in range(200)]

    assert np.median(found) == pytest.approx(1.88, abs=0.2)


@pytest.mark.parametrize("n", [4, 60, 300])
def test_a_smaller_budget_never_gives_a_lower_threshold(n):
    budgets = (0.001, 0.005, 0.00999, 0.01, 0.0499, 0.05, 0.1, 0.5)
    for seed in range(50):
        scores = np.random.default_rng(seed).normal(size=n).tolist()
        found = [
            replace(estimated(scores), false_alarm_budget=budget).threshold
            for budget in budgets
        ]
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("budget", "n_above"), [(0.05, 10), (0.01, 2), (0.5, 51)])
def test_a_steady_threshold_keeps_a_second_session_within_twice_the_budget(
    budget, n_above
):
    scores = np.linspace(0, 1, 101).tolist()
    session = {"blur": tuple(0.5 + k / 50 for k in range(50)), "shift": (0.4,) * 50}
    estimate = replace(estimated(scores, budget=budget), second_session=session)

    steady = replace(estimate, threshold_rule="steady")

    above = [s > steady.threshold for kind in session.values() for s in kind]
    assert sum(above) <= n_above
    assert steady.threshold >= estimate.threshold
    is_raised = steady.threshold > estimate.threshold
    assert is_raised == (budget < 0.5)
    assert ("raised so that changes" in steady.statement()) == is_raised


def test_a_table_has_a_threshold_for_each_budget():
    heading, *lines = estimated([0.1 * k for k in range(400)]).table()

    assert heading == "expected false alarms  threshold  held-out images flagged"
    assert [line.split("%")[0].strip() for line in lines] == [
        "0.5",
        "1",
        "2",
        "5",
        "10",
    ]
    assert lines[-1].split()[-3:] == ["39", "of", "400"]


@pytest.mark.parametrize(
    ("center", "slope", "words"),
    [
        (math.nan, 1, "center must be a finite number, got nan"),
        (0, -1, "slope must be a finite number from 0 to inf, got -1"),
        (0, math.inf, "slope must be a finite number from 0 to inf, got inf"),
    ],
)
def test_a_term_without_a_scale_is_refused(center, slope, words):
    with pytest.raises(ConfigError, match=words):
        TermScale(center, slope)


def test_levels_are_there_or_not():
    assert SCALE.levels is None
    assert MapScale(0.0, 1.0, 0.5, 0.5).levels == (0.5, 0.5)


def test_a_score_can_be_that_of_terms_alone():
    scales = {"anomaly": MapScale(0.0, 0.1)}
    terms = {"score": TermScale(center=1.0, slope=0.5)}
    calibration = Calibration(scales, (0.1,), terms=terms, score_has_map=False)
    grids = {"anomaly": np.full((2, 4, 4), 7, np.float32)}
    values = {"score": np.array([[1.0], [3.0]], np.float32)}

    scores, points = calibration.scores(grids, values)

    np.testing.assert_allclose(scores, [0, 1])
    np.testing.assert_allclose(points["score"], [0, 1])


def test_a_score_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="needs the maps or at least one term"):
        Calibration({"anomaly": MapScale(0.0, 0.1)}, (0.1,), score_has_map=False)
