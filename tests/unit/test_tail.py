import numpy as np
import pytest

from efficientad.decisions.tail import tail_quantile


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda rng, n: rng.exponential(1, n), -np.log(0.01)),
        (lambda rng, n: rng.normal(0, 1, n), 2.326),
        (lambda rng, n: rng.uniform(0, 1, n), 0.99),
    ],
)
def test_a_quantile_is_found_without_a_score_beyond_it(draw, expected):
    rng = np.random.default_rng(0)
    found = [tail_quantile(draw(rng, 40).tolist(), 0.01) for _ in range(300)]

    assert np.median(found) == pytest.approx(expected, rel=0.12)


def test_one_odd_score_moves_the_quantile_less_than_the_maximum():
    usual = np.random.default_rng(0).exponential(0.05, 30).tolist()
    odd = [*usual, 0.757]

    moved = tail_quantile(odd, 0.02) - tail_quantile(usual, 0.02)
    assert 0 < moved < 0.5 * (max(odd) - max(usual))


@pytest.mark.parametrize("scores", [[0.3], [0.3] * 20])
def test_equal_scores_have_no_tail(scores):
    assert tail_quantile(scores, 0.01) == pytest.approx(0.3)


@pytest.mark.parametrize("n", [2, 3, 7, 8, 20])
def test_a_rarer_share_has_a_higher_quantile(n):
    scores = np.random.default_rng(n).normal(size=n).tolist()
    found = [tail_quantile(scores, share) for share in (0.4, 0.1, 0.01, 0.001)]

    assert found == sorted(found)
    assert found[0] >= np.median(scores)
