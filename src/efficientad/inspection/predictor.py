"""The predictor: a picture in, a prediction out, with any engine.

The calibration turns the raw grids of the engine into normalized maps, score and
decision, in this one place for all engines. No torch here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from efficientad.engines.engine import Engine, EngineOutput, Precision
from efficientad.engines.weights import Arrays
from efficientad.errors import ModelFileError, train_extra_is_missing
from efficientad.images.rgb import ImageLike, as_rgb, resize_image
from efficientad.inspection.tiling import WHOLE, Size, require_same_aspect, run
from efficientad.method.decision import Calibration, Prediction
from efficientad.method.maps import normalize_maps
from efficientad.method.sizes import ModelSize
from efficientad.settings import checks_arguments

if TYPE_CHECKING:
    from efficientad.method.detector import Detector

_MAX_BATCH: Final = 16


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Predictor:
    """Predicts which images are anomalous, and where.

    Made by `train`, or read from a file by `load`. It does not change: `calibrate`
    returns another one.
    """

    engine: Engine
    """Engine that computes the raw maps."""

    calibration: Calibration
    """Scales of maps and scores, and the threshold."""

    provenance: Mapping[str, Any] = field(repr=False)
    """How the model came to be: settings, hashes, versions; JSON-like."""

    size: ModelSize
    """The paper's S or M: `small` or `medium`."""

    input_size: Size = WHOLE
    """Height and width that images are resized to. If it is larger than 256 x 256, the
    local map is computed in tiles."""

    weights: Arrays | None = field(default=None, repr=False)
    """Weights and statistics of the networks, by name. None for an exported file."""

    @cached_property
    def detector(self) -> "Detector | None":
        """The networks in PyTorch, on the CPU, for research.

        None for an exported file.

        Raises:
            MissingDependencyError: If PyTorch is not installed.
        """
        if self.weights is None:
            return None
        try:
            from efficientad.method.detector import Detector  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise train_extra_is_missing("the detector in PyTorch", error) from error
        return Detector.from_arrays(self.weights, self.size)

    @property
    def precision(self) -> Precision:
        """Precision of the engine."""
        return self.engine.precision

    def predict(self, image: ImageLike) -> Prediction:
        """Predict one image of any size.

        Args:
            image: Path, PIL image, or RGB array (height, width, 3) or (height, width).

        Raises:
            ImageError: If the image cannot be read or used.
            ModelFileError: If the model gives no finite maps for it.
        """
        return self.predict_batch([image])[0]

    @checks_arguments
    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Predict several images, of any sizes, up to 16 in one run of the engine.

        Args:
            images: List or other sequence of images; of an array, make a list first.

        Raises:
            ConfigError: If it is none.
            ImageError: If an image cannot be read or used.
            ModelFileError: If the model gives no finite maps for one.
        """
        found: list[Prediction] = []
        for start in range(0, len(images), _MAX_BATCH):
            pixels, sizes = [], []
            for image in images[start : start + _MAX_BATCH]:
                array = as_rgb(image)
                size = array.shape[0], array.shape[1]
                self.calibration.rule.require_aspect(*size)
                require_same_aspect(size, self.input_size)
                pixels.append(resize_image(array, *self.input_size))
                sizes.append(size)
            output = run(self.engine, np.stack(pixels), self.calibration.rule)
            found += self.decide(output, sizes)
        return found

    def decide(
        self, output: EngineOutput, sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Return the predictions that follow from the output of an engine.

        Args:
            output: Raw grids of a batch of images.
            sizes: Height and width of each image in pixels.

        Raises:
            ModelFileError: If a grid is not finite: it would pass as normal.
        """
        calibration = self.calibration
        rule = calibration.rule
        grids = normalize_maps(output.grids, calibration.scales, rule.cells)
        if not all(np.isfinite(grid).all() for grid in grids.values()):
            raise ModelFileError(
                "a decision needs finite maps for every image, the model gives others; "
                "use a higher precision, or train it again"
            )
        scores, terms = calibration.scores(grids, output.values)
        return [
            Prediction(
                image_score=score,
                p_value=calibration.p_value(score),
                threshold=calibration.threshold,
                height=height,
                width=width,
                grids={name: grid[index] for name, grid in grids.items()},
                terms={name: float(term[index]) for name, term in terms.items()},
                unsure_threshold=calibration.unsure_threshold,
                rule=rule,
            )
            for index, (score, (height, width)) in enumerate(
                zip(scores.tolist(), sizes, strict=True)
            )
        ]
