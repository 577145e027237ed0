"""The five statistics of a source that are watched for drift.

One alarm level holds for all of them together: with probability of at most T / A none
of them reaches 5 A within T parts while nothing changes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from efficientad.station.chance import chance
from efficientad.station.watching.drift import Evidence, RankDrift, RateDrift

PARTS_PER_FALSE_ALARM: Final = 1_000_000
"""A: mean number of parts between false alarms, at least."""

EPOCH: Final = 50_000
"""Parts after which the watch begins anew."""

N_LEARNED: Final = 200
"""Parts whose appearance is learned before it is watched."""

APPEARANCE: Final = ("brightness", "contrast", "sharpness")
STATISTICS: Final = ("score", *APPEARANCE, "flag_rate")


class Part(NamedTuple):
    """An inspected part, as far as the watch compares it."""

    id: str
    score: float
    is_anomalous: bool
    brightness: float
    contrast: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class Reading:
    """State of one statistic."""

    statistic: str
    evidence: Evidence
    level: float
    """Evidence at which an alarm is raised."""

    @property
    def is_alarm(self) -> bool:
        """Whether the evidence has reached the level."""
        return self.evidence.value >= self.level


class SourceDrift:
    """Drift watch of one source with one model and rule.

    Scores are compared where they are below the threshold, so that a real defect is no
    drift. The expected rate is the share of flagged parts, in (0, 0.45].
    """

    def __init__(
        self,
        normal_scores: Iterable[float],
        threshold: float,
        expected_rate: float,
        parts_per_false_alarm: float = PARTS_PER_FALSE_ALARM,
    ) -> None:
        self.threshold = threshold
        self.level = len(STATISTICS) * parts_per_false_alarm
        self.n_parts = 0
        self.score = RankDrift(sorted(s for s in normal_scores if s < threshold))
        self._appearance = {name: RankDrift([]) for name in APPEARANCE}
        self._rate = RateDrift(expected_rate)

    def add(self, part: Part) -> None:
        """Add a part, in the order of arrival."""
        self.n_parts += 1
        if part.score < self.threshold:
            self.score.add(part.score, part.id, chance(part.id, "score"))
        for name, test in self._appearance.items():
            value = getattr(part, name)
            if self.n_parts <= N_LEARNED:
                test.learn(value)
            else:
                test.add(value, part.id, chance(part.id, name))
        self._rate.add(is_flagged=part.is_anomalous, part=part.id)

    @property
    def is_alarm(self) -> bool:
        """Whether any statistic has reached the level."""
        return any(evidence.value >= self.level for evidence in self._evidence())

    def readings(self) -> tuple[Reading, ...]:
        """Return the state of all statistics, in the order of `STATISTICS`."""
        return tuple(
            Reading(name, evidence, self.level)
            for name, evidence in zip(STATISTICS, self._evidence(), strict=True)
        )

    def _evidence(self) -> tuple[Evidence, ...]:
        appearance = (test.evidence for test in self._appearance.values())
        return (self.score.evidence, *appearance, self._rate.evidence)
