"""Golden samples: parts with a known verdict that a model and rule must agree with.

They are replayed before an activation. One that disagrees refuses it.
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from efficientad.station.reviewing.queue import Decision

Verdict = Literal["normal", "defect", "unsure"]

_WANTED: Final = {"normal": "normal", "defect": "anomalous"}


class GoldenResult(NamedTuple):
    """A golden sample and what a model and rule say of it."""

    inspection: str
    verdict: Verdict
    decision: Decision
    score: float | None

    @property
    def agrees(self) -> bool:
        """Whether verdict and decision are the same. Undecided is never right."""
        return _WANTED.get(self.verdict) == self.decision


def refusal(results: Iterable[GoldenResult]) -> str | None:
    """Return why golden samples refuse an activation, None if all of them agree."""
    results = list(results)
    wrong = [result for result in results if not result.agrees]
    if not wrong:
        return None
    first = wrong[0]
    return (
        f"all golden samples must agree, {len(wrong)} of {len(results)} do not, such "
        f"as {first.inspection}, a {first.verdict} part that is {first.decision}; "
        "choose another model or rule, or correct the golden samples"
    )
