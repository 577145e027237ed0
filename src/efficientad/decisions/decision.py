"""From maps and scores to a decision, on the evidence of normal images alone.

A `Calibration` is measured on normal images that took no part in training. If a new
normal image is like these n, its score is the highest of n + 1 with probability
1 / (n + 1), and so on for every rank (split conformal prediction). The p-value of a
score and the threshold for a false-alarm budget follow. No defect image is needed.

No torch here.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray

from efficientad.decisions.budget import BUDGETS, DEFAULT_BUDGET, percent, require_order
from efficientad.decisions.rule import ANYWHERE, Rule
from efficientad.decisions.tail import tail_quantile
from efficientad.errors import ConfigError, ModelFileError
from efficientad.method.maps import HIGH_TARGET, MapScale, combine_maps
from efficientad.settings import Budget, Range, check_fields, explains_freezing

ThresholdRule = Literal["rank", "estimate", "steady"]
Decision = Literal["normal", "unsure", "anomalous"]
_LEAST_ABOVE: Final = 3
_MORE_IN_SECOND_SESSION: Final = 2
"""False alarms that a second session may have, as a multiple of the budget."""
_REACH: Final = 10


@dataclass(frozen=True, slots=True)
class TermScale:
    """How an image-level value adds to the image score."""

    center: float
    """Value that adds nothing: the mean of normal images."""
    slope: Annotated[float, Range(0, math.inf)]
    """Points of the score for each unit above the center, at least 0."""

    def __post_init__(self) -> None:
        """Reject numbers that are not finite, and a negative slope."""
        check_fields(self)

    def points(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what values add to the image score."""
        points: NDArray[np.float32] = (values - self.center) * self.slope
        return points.astype(np.float32)


@explains_freezing("call dataclasses.replace with given_threshold")
@dataclass(frozen=True)
class Calibration:
    """Scales of maps and scores, measured on normal images outside the training set."""

    scales: Mapping[str, MapScale]
    """Normalization of each raw map by its name, at least one."""

    normal_scores: tuple[float, ...]
    """Image scores of the held-out normal images, ascending, at least one."""

    false_alarm_budget: Budget = DEFAULT_BUDGET
    """Share of normal images that may be flagged, from 1e-6 to 0.5."""

    given_threshold: float | None = None
    """A threshold set by the user. None: derived from the scores and the budget."""

    terms: Mapping[str, TermScale] = field(default_factory=dict)
    """Image-level values that add to the score, by name. Empty: the paper's score."""

    training_scores: tuple[float, ...] = ()
    """Image scores of training images, ascending, as if they had been held out. Empty:
    unknown, or not like those of held-out images."""

    threshold_rule: ThresholdRule = "rank"
    """`rank`: the lowest held-out score that keeps the budget, or the highest one, as
    in files of earlier versions. `estimate`: from the scores of all normal images, and
    from their tail where fewer than three of them lie above. `steady`: the estimate,
    or higher, so that a second session has at most twice as many false alarms."""

    second_session: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Image scores of held-out images after changes that are no defects, by the kind of
    change (`images.changes`). Empty: not measured."""

    rule: Rule = ANYWHERE
    """Region of interest and least area of a defect."""

    unsure_budget: Budget | None = None
    """Share of normal images that may be flagged or unsure, above the budget. None:
    no image is unsure."""

    score_has_map: bool = True
    """Whether the maximum of the combined map counts in the image score. False: the
    score is the points of the terms alone, as in methods with a rule of their own."""

    def __post_init__(self) -> None:
        """Reject missing scales, and scores that are missing, unordered or infinite."""
        check_fields(self)
        if not self.scales:
            raise ConfigError("calibration needs the scale of at least one map")
        if not self.normal_scores:
            raise ConfigError("calibration needs at least one held-out normal score")
        for kind, scores in (
            ("held-out normal", self.normal_scores),
            ("training", self.training_scores),
        ):
            if list(scores) != sorted(scores):
                raise ConfigError(f"{kind} scores must be in ascending order")
        if not all(self.second_session.values()):
            raise ConfigError("each kind of change needs at least one image score")
        if not (self.score_has_map or self.terms):
            raise ConfigError("a score needs the maps or at least one term")
        require_order(self.false_alarm_budget, self.unsure_budget)

    @cached_property
    def threshold(self) -> float:
        """Scores above it are called anomalous; see `threshold_rule`."""
        if self.given_threshold is not None:
            return self.given_threshold
        return self._threshold_for(self.false_alarm_budget)

    @cached_property
    def unsure_threshold(self) -> float | None:
        """Scores above it, up to the threshold, are unsure; None without a budget."""
        if self.unsure_budget is None:
            return None
        return min(self.threshold, self._threshold_for(self.unsure_budget))

    def _threshold_for(self, budget: float) -> float:
        if self.threshold_rule == "rank":
            return _lowest_for(self.normal_scores, budget)
        found = self._estimate(budget)
        if self.threshold_rule == "steady" and self.second_session:
            session = sorted(chain.from_iterable(self.second_session.values()))
            n_above = math.floor(len(session) * _MORE_IN_SECOND_SESSION * budget)
            found = max(found, session[max(0, len(session) - 1 - n_above)])
        return found

    def _estimate(self, budget: float) -> float:
        """Return the score that a share of all normal images exceeds."""
        scores = tuple(sorted((*self.normal_scores, *self.training_scores)))
        least = min(0.5, _LEAST_ABOVE / len(scores))
        if budget >= least:
            return _lowest_for(scores, budget)
        # A smaller budget never gets a lower threshold.
        return max(tail_quantile(scores, budget), _lowest_for(scores, least))

    @cached_property
    def normal_range(self) -> tuple[float, float]:
        """Median score of held-out normal images, and the threshold that they give.

        Pictures take their colors from it, so a threshold set by hand changes none.
        """
        median = float(np.median(self.normal_scores))
        return median, self._threshold_for(self.false_alarm_budget)

    @property
    def n_flagged(self) -> int:
        """Number of held-out normal images whose score exceeds the threshold."""
        n = len(self.normal_scores)
        return n - bisect_right(self.normal_scores, self.threshold)

    @property
    def guaranteed_false_alarm_rate(self) -> float:
        """Highest chance, averaged over calibrations, of flagging a normal image.

        Exact for a threshold that does not depend on the held-out scores or is one of
        them (split conformal prediction).
        """
        return (self.n_flagged + 1) / (len(self.normal_scores) + 1)

    @property
    def n_more_images_needed(self) -> int:
        """Held-out normal images still missing for the budget; 0 when it is kept."""
        n_needed = math.ceil(1 / self.false_alarm_budget - 1e-9) - 1
        return max(0, n_needed - len(self.normal_scores))

    def statement(self) -> str:
        """Return one sentence on what the threshold promises."""
        n = len(self.normal_scores)
        rate = percent(self.guaranteed_false_alarm_rate)
        parts = [f"{n} held-out normal images guarantee at most {rate} false alarms"]
        if self.given_threshold is not None:
            return parts[0]
        budget = percent(self.false_alarm_budget)
        if self.threshold_rule != "rank":
            estimate = (
                f"the threshold is estimated for {budget} false alarms from the scores "
                f"of {n + len(self.training_scores)} normal images"
            )
            if self.threshold > self._estimate(self.false_alarm_budget):
                estimate += (
                    ", and raised so that changes that are no defects flag at most "
                    f"{percent(_MORE_IN_SECOND_SESSION * self.false_alarm_budget)}"
                )
            parts.insert(0, estimate)
        if self.n_more_images_needed:
            parts.append(f"{self.n_more_images_needed} more are needed for {budget}")
        if self.unsure_budget is not None:
            parts.append(
                f"scores above {self.unsure_threshold:.4g} are unsure, so that "
                f"{percent(self.unsure_budget)} of normal images are expected there "
                "or higher"
            )
        return "; ".join(parts)

    def require_sensible(self) -> None:
        """Refuse a threshold set by hand that is no decision.

        Raises:
            ConfigError: If it flags more than half of the held-out normal images, or is
                more than ten times as high as all of them.
        """
        given, highest = self.given_threshold, self.normal_scores[-1]
        if given is None:
            return
        n = len(self.normal_scores)
        if self.n_flagged > n / 2:
            raise ConfigError(
                f"threshold {given:.4g} flags {self.n_flagged} of {n} held-out normal "
                f"images, whose scores reach {highest:.4g}; give a higher one, or "
                "--force"
            )
        if given > _REACH * max(highest, HIGH_TARGET):
            raise ConfigError(
                f"threshold {given:.4g} is more than {_REACH} times the scores of all "
                f"held-out normal images, which reach {highest:.4g}, so that it may "
                "flag nothing; give a lower one, or --force"
            )

    def session_alarms(self) -> dict[str, float]:
        """Return the share of false alarms after each kind of change, in [0, 1]."""
        return {
            kind: sum(score > self.threshold for score in scores) / len(scores)
            for kind, scores in self.second_session.items()
        }

    def at_budget(self, budget: float) -> "Calibration":
        """Return this calibration with a threshold for another false-alarm budget."""
        return replace(
            self, false_alarm_budget=budget, given_threshold=None, unsure_budget=None
        )

    def table(self) -> list[str]:
        """Return lines with the threshold of some budgets, and held-out images above.

        The first line is the heading.
        """
        lines = ["expected false alarms  threshold  held-out images flagged"]
        for budget in BUDGETS:
            other = self.at_budget(budget)
            flagged = f"{other.n_flagged} of {len(self.normal_scores)}"
            lines += [f"{percent(budget):>21}  {other.threshold:9.4g}  {flagged:>23}"]
        return lines

    def scores(
        self,
        grids: Mapping[str, NDArray[np.float32]],
        values: Mapping[str, NDArray[np.float32]],
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        """Return the image scores, (n,), and the points of each term in them, (n,).

        They follow from normalized maps, (n, rows, columns), and image-level values,
        (n, 1), by name.
        """
        points = {k: term.points(values[k][:, 0]) for k, term in self.terms.items()}
        of_maps = self.rule.scores(combine_maps(grids))
        start = of_maps if self.score_has_map else np.zeros_like(of_maps)
        return sum(points.values(), start=start), points

    def p_value(self, image_score: float) -> float:
        """Return the probability that a normal image scores at least this high.

        It is at least 1 / (n + 1); small means anomalous.

        Raises:
            ModelFileError: If the score is not finite: a NaN would pass as normal.
        """
        if not math.isfinite(image_score):
            raise ModelFileError(
                "a decision needs a finite score, the model gives "
                f"{image_score}; use a higher precision, or train it again"
            )
        n_below = bisect_left(self.normal_scores, image_score)
        n = len(self.normal_scores)
        return (n - n_below + 1) / (n + 1)


def _lowest_for(scores: tuple[float, ...], budget: float) -> float:
    """Return the lowest of the ascending scores that keeps a budget, or the highest."""
    rank = math.ceil((len(scores) + 1) * (1 - budget) - 1e-9)
    return scores[min(rank, len(scores)) - 1]
