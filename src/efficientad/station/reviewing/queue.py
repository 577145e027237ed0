"""Which parts people look at.

Anomalous and undecided parts, and normal ones with a score close to the threshold. None
of these shows what is missed, so a random share of all normal parts is reviewed too. It
follows from the identifier: nobody can choose, and a restart changes nothing.
"""

from typing import Final, Literal

from efficientad.station.chance import chance

Decision = Literal["normal", "anomalous", "undecided"]
Reason = Literal["anomalous", "undecided", "close", "random", "again"]

CLOSE: Final = 0.1
_CONFIDENCE: Final = 0.95


def queue_reason(
    part: str,
    decision: Decision,
    score: float | None,
    threshold: float,
    random_share: float,
) -> Reason | None:
    """Return the reason why a part is to be reviewed, None if it is not.

    A random share of the normal parts, in [0, 1], is reviewed. Another one is close if
    its score is at most 10 % of the threshold below it.
    """
    if decision != "normal":
        return decision
    if score is None:
        return "undecided"
    if chance(part, "review") < random_share:
        return "random"
    return "close" if score > threshold - CLOSE * abs(threshold) else None


def missed_share(n_reviewed: int, n_defects: int) -> float:
    """Return an upper bound for the share of defects among parts called normal.

    It is that of Clopper and Pearson, from random normal parts with a verdict and the
    defective ones among them.
    """
    low, high = n_defects / max(n_reviewed, 1), 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _at_most(n_defects, n_reviewed, middle) > 1 - _CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _at_most(k: int, n: int, share: float) -> float:
    """Return the probability of at most k of n with a share in (0, 1]."""
    if share >= 1:
        return 1.0 if k >= n else 0.0
    term = total = (1 - share) ** n
    for i in range(k):
        term *= (n - i) / (i + 1) * share / (1 - share)
        total += term
    return total
