"""The detector as an estimator of scikit-learn.

    from efficientad.sklearn import AnomalyDetector

    detector = AnomalyDetector().fit(normal_images)
    detector.predict(images)  # 1 is normal, -1 is anomalous

As everywhere in scikit-learn, high scores are normal here; `predictor_` and the rest of
this package have scores that rise with abnormality.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from efficientad.decisions.budget import DEFAULT_BUDGET
from efficientad.engines.names import Device
from efficientad.errors import needs_extra
from efficientad.images.rgb import ImageLike
from efficientad.inspection.predictor import Predictor
from efficientad.method.sizes import ModelSize
from efficientad.training.config import Preset, TrainConfig

with needs_extra("efficientad.sklearn", "sklearn"):
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.utils.validation import check_is_fitted

ImagesLike: TypeAlias = str | Path | Sequence[ImageLike] | NDArray[Any]
"""A folder; a list of paths, arrays or Pillow images; or one array of images, (n,
height, width, 3). Arrays are RGB."""


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """Finds anomalous images, having seen only normal ones.

    Args:
        size: The paper's S or M: `small` or `medium`.
        preset: `paper` or `quick`. None: `paper` where an accelerator is used.
        steps: Optimizer steps. None: as the preset says.
        false_alarm_budget: Share of normal images that may be called anomalous.
        device: Device of the training: `auto`, `cpu` or `cuda`.
        random_state: Seed of every random draw, at least 0.
    """

    predictor_: Predictor
    """The trained and calibrated model, after `fit`."""

    def __init__(
        self,
        *,
        size: ModelSize = "small",
        preset: Preset | None = None,
        steps: int | None = None,
        false_alarm_budget: float = DEFAULT_BUDGET,
        device: Device = "auto",
        random_state: int = 0,
    ) -> None:
        self.size = size
        self.preset = preset
        self.steps = steps
        self.false_alarm_budget = false_alarm_budget
        self.device = device
        self.random_state = random_state

    def fit(self, X: ImagesLike, y: object = None) -> "AnomalyDetector":  # noqa: N803
        """Train on normal images.

        Args:
            X: Normal images, at least 10 different ones, a tenth of which is held out
                for the threshold. Arrays are RGB.
            y: Ignored.

        Raises:
            ConfigError: If a parameter is outside its range.
            DatasetError, ImageError: If the images cannot be used.
        """
        del y
        from efficientad.training.run import train  # noqa: PLC0415 - needs torch

        config = TrainConfig(
            size=self.size,
            preset=self.preset,
            steps=self.steps,
            false_alarm_budget=self.false_alarm_budget,
            device=self.device,
            seed=self.random_state,
        )
        self.predictor_ = train(_listed(X), config)
        return self

    @property
    def offset_(self) -> float:
        """Score below which an image is anomalous: minus the threshold."""
        check_is_fitted(self)
        return -self.predictor_.threshold

    def score_samples(self, X: ImagesLike) -> NDArray[np.float64]:  # noqa: N803
        """Return the scores, (n,): minus the image scores, so that high is normal.

        Raises:
            sklearn.exceptions.NotFittedError: If `fit` was not called.
            ImageError: If an image cannot be used.
        """
        check_is_fitted(self)
        found = self.predictor_.predict_batch(_listed(X))
        return np.array([-each.image_score for each in found])

    def decision_function(self, X: ImagesLike) -> NDArray[np.float64]:  # noqa: N803
        """Return the distances to the threshold, (n,); negative is anomalous.

        Errors are those of `score_samples`.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ImagesLike) -> NDArray[np.int64]:  # noqa: N803
        """Return the decisions, (n,): 1 is normal, -1 is anomalous.

        Errors are those of `score_samples`.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def __sklearn_tags__(self) -> Any:
        """Return the tags of an estimator of images instead of tables."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags


def _listed(images: ImagesLike) -> str | Path | list[ImageLike]:
    return images if isinstance(images, (str, Path)) else list(images)
