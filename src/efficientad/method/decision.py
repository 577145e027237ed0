"""From maps and scores to a decision, on the evidence of normal images alone.

A `Calibration` holds what was measured on normal images that took no part in training:
how far the raw maps reach, and the image scores. From n such scores follows what can be
promised: if a new normal image is like them, its score is the highest of n + 1 with
probability 1 / (n + 1), and so on for every rank (split conformal prediction). Hence
the p-value of a score and the threshold for a false-alarm budget. No defect image is
needed.

No torch here.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import ConfigError, ModelFileError
from efficientad.method.placement import place_map

Grid = NDArray[np.float32]

# The paper's, "Anomaly map normalization": quantiles and what they are sent to.
LOW_QUANTILE, HIGH_QUANTILE = 0.9, 0.995
LOW_TARGET, HIGH_TARGET = 0.0, 0.1


@dataclass(frozen=True, slots=True)
class MapQuantiles:
    """Two quantiles of the raw map values on normal images."""

    low: float
    high: float
    least_level: float | None = None
    """With `greatest_level`: a map is divided by the image's own level within these
    limits, the range of normal images, and the quantiles are of such maps. None: raw
    maps as they are, as in the paper."""
    greatest_level: float | None = None

    def __post_init__(self) -> None:
        """Reject quantiles that give no scale."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ConfigError(
                f"map quantiles must be finite, got {self.low} and {self.high}"
            )
        if not self.low < self.high:
            raise ConfigError(
                f"map quantiles must differ, got {self.low} and {self.high}: the "
                "calibration images give constant maps; give other normal images"
            )
        is_half = (self.least_level is None) != (self.greatest_level is None)
        levels = self.levels
        if is_half or (levels and not 0 < levels[0] <= levels[1] < math.inf):
            raise ConfigError(
                "the levels of a map need two limits, positive and in order, got "
                f"{self.least_level} and {self.greatest_level}"
            )

    @property
    def levels(self) -> tuple[float, float] | None:
        """Limits of what a map is divided by, or None where it is not."""
        if self.least_level is None or self.greatest_level is None:
            return None
        return self.least_level, self.greatest_level


@dataclass(frozen=True)
class Calibration:
    """What normal images outside the training set tell about maps and scores."""

    local_quantiles: MapQuantiles
    """Of the raw local map."""

    global_quantiles: MapQuantiles
    """Of the raw global map."""

    normal_scores: tuple[float, ...]
    """Image scores of the held-out normal images, ascending, at least one."""

    false_alarm_budget: float = 0.01
    """Share of normal images that may be flagged, in (0, 1)."""

    given_threshold: float | None = None
    """A threshold set by the user. None: derived from the scores and the budget."""

    def __post_init__(self) -> None:
        """Reject a list of scores that is empty, unordered or of no numbers."""
        if not self.normal_scores:
            raise ConfigError("calibration needs at least one held-out normal score")
        if not all(map(math.isfinite, self.normal_scores)):
            raise ConfigError("held-out normal scores must be finite numbers")
        if list(self.normal_scores) != sorted(self.normal_scores):
            raise ConfigError("held-out normal scores must be in ascending order")
        if not 0 < self.false_alarm_budget < 1:
            raise ConfigError(
                f"false_alarm_budget must be in (0, 1), got {self.false_alarm_budget}"
            )
        given = self.given_threshold
        if given is not None and not math.isfinite(given):
            raise ConfigError(f"a threshold must be a finite number, got {given}")

    @property
    def threshold(self) -> float:
        """Scores above it are called anomalous.

        The lowest held-out score that keeps the budget; the highest one where there are
        too few images for the budget.
        """
        if self.given_threshold is not None:
            return self.given_threshold
        n = len(self.normal_scores)
        rank = min(_rank(n, self.false_alarm_budget), n)
        return self.normal_scores[rank - 1]

    @property
    def guaranteed_false_alarm_rate(self) -> float:
        """Highest chance, averaged over calibrations, of flagging a normal image."""
        n_above = len(self.normal_scores) - bisect_left(
            self.normal_scores, math.nextafter(self.threshold, math.inf)
        )
        return (n_above + 1) / (len(self.normal_scores) + 1)

    @property
    def n_more_images_needed(self) -> int:
        """Held-out normal images still missing for the budget; 0 when it is kept."""
        n_needed = math.ceil(1 / self.false_alarm_budget - 1e-9) - 1
        return max(0, n_needed - len(self.normal_scores))

    def statement(self) -> str:
        """Say in one sentence what the threshold promises."""
        n = len(self.normal_scores)
        rate = f"{100 * self.guaranteed_false_alarm_rate:.2g} %"
        text = f"{n} held-out normal images guarantee at most {rate} false alarms"
        if self.given_threshold is None and self.n_more_images_needed:
            budget = f"{100 * self.false_alarm_budget:.2g} %"
            text += f"; {self.n_more_images_needed} more are needed for {budget}"
        return text

    def p_value(self, image_score: float) -> float:
        """Give the probability that a normal image scores at least this high.

        Returns:
            In (0, 1]; small means anomalous, and never below 1 / (n + 1).

        Raises:
            ModelFileError: If the score is not finite: no comparison holds for what is
                not a number, so it would pass as normal.
        """
        if not math.isfinite(image_score):
            raise ModelFileError(
                "an image needs a finite score to be decided, the model gives "
                f"{image_score}; use a higher precision, or train it again"
            )
        n_below = bisect_left(self.normal_scores, image_score)
        n = len(self.normal_scores)
        return (n - n_below + 1) / (n + 1)


def _rank(n: int, budget: float) -> int:
    """Rank of the threshold among n ascending scores; n + 1 where none keeps it."""
    return math.ceil((n + 1) * (1 - budget) - 1e-9)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says about one image. Scores and maps rise with abnormality."""

    image_score: float
    """Maximum of the combined map: about 0 to 0.1 on normal images."""

    p_value: float
    """Share of held-out normal images scoring as high, in (0, 1]."""

    threshold: float
    """Scores above it are anomalous."""

    height: int
    """Of the image in pixels."""

    width: int
    """Of the image in pixels."""

    local_grid: Grid = field(repr=False)
    """Normalized local map, one value per descriptor."""

    global_grid: Grid = field(repr=False)
    """Normalized global map, one value per descriptor."""

    @property
    def is_anomalous(self) -> bool:
        """Whether the score exceeds the threshold."""
        return self.image_score > self.threshold

    @property
    def combined_grid(self) -> Grid:
        """Mean of both, one value per descriptor."""
        mean: Grid = (self.local_grid + self.global_grid) / np.float32(2)
        return mean

    @cached_property
    def anomaly_map(self) -> NDArray[np.float32]:
        """Combined map at the image's own size, (height, width)."""
        return place_map(self.combined_grid, self.height, self.width)

    @cached_property
    def local_map(self) -> NDArray[np.float32]:
        """Local map at the image's own size: a defect within one patch."""
        return place_map(self.local_grid, self.height, self.width)

    @cached_property
    def global_map(self) -> NDArray[np.float32]:
        """Global map at the image's own size: normal patches in a wrong arrangement."""
        return place_map(self.global_grid, self.height, self.width)
