"""From maps and scores to a decision, on the evidence of normal images alone.

A `Calibration` is measured on normal images that took no part in training. If a new
normal image is like these n, its score is the highest of n + 1 with probability
1 / (n + 1), and so on for every rank (split conformal prediction). The p-value of a
score and the threshold for a false-alarm budget follow. No defect image is needed.

No torch here.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import ConfigError, ModelFileError
from efficientad.method.maps import MapScale, combine_maps
from efficientad.method.placement import place_map

Grid = NDArray[np.float32]
"""Values of one map on the descriptor grid, (rows, columns)."""


@dataclass(frozen=True)
class Calibration:
    """Scales of maps and scores, measured on normal images outside the training set."""

    scales: Mapping[str, MapScale]
    """Normalization of each raw map by its name, at least one."""

    normal_scores: tuple[float, ...]
    """Image scores of the held-out normal images, ascending, at least one."""

    false_alarm_budget: float = 0.01
    """Share of normal images that may be flagged, in (0, 1)."""

    given_threshold: float | None = None
    """A threshold set by the user. None: derived from the scores and the budget."""

    def __post_init__(self) -> None:
        """Reject missing scales, and scores that are missing, unordered or infinite."""
        if not self.scales:
            raise ConfigError("calibration needs the scale of at least one map")
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

        It is the lowest held-out score that keeps the budget, or the highest one if
        there are too few images for the budget.
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
        """Return one sentence on what the threshold promises."""
        n = len(self.normal_scores)
        rate = f"{100 * self.guaranteed_false_alarm_rate:.2g} %"
        text = f"{n} held-out normal images guarantee at most {rate} false alarms"
        if self.given_threshold is None and self.n_more_images_needed:
            budget = f"{100 * self.false_alarm_budget:.2g} %"
            text += f"; {self.n_more_images_needed} more are needed for {budget}"
        return text

    def p_value(self, image_score: float) -> float:
        """Return the probability that a normal image scores at least this high.

        Returns:
            In (0, 1]; small means anomalous, and never below 1 / (n + 1).

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


def _rank(n: int, budget: float) -> int:
    """Return the rank of the threshold among n scores, n + 1 if none keeps it."""
    return math.ceil((n + 1) * (1 - budget) - 1e-9)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction for one image. Scores and maps rise with abnormality."""

    image_score: float
    """Maximum of the combined map: about 0 to 0.1 on normal images."""

    p_value: float
    """Share of held-out normal images scoring as high, in (0, 1]."""

    threshold: float
    """Scores above it are anomalous."""

    height: int
    """Height of the image in pixels."""

    width: int
    """Width of the image in pixels."""

    grids: Mapping[str, Grid] = field(repr=False)
    """Normalized maps by name (`local`, `global`), one value per descriptor."""

    @property
    def is_anomalous(self) -> bool:
        """Whether the score exceeds the threshold."""
        return self.image_score > self.threshold

    @property
    def combined_grid(self) -> Grid:
        """Mean of all maps, one value per descriptor."""
        return combine_maps(self.grids)

    @cached_property
    def anomaly_map(self) -> NDArray[np.float32]:
        """Combined map at the image's own size, (height, width)."""
        return place_map(self.combined_grid, self.height, self.width)

    def map(self, name: str) -> NDArray[np.float32]:
        """Return one map at the image's own size, (height, width).

        Args:
            name: `local` (a defect within one patch), `global` (normal patches in a
                wrong arrangement), or another key of `grids`.
        """
        return place_map(self.grids[name], self.height, self.width)
