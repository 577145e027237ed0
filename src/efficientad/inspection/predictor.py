"""The predictor: a picture in, a prediction out, with any engine.

The calibration turns the raw grids of the engine into normalized maps, score and
decision, in this one place for all engines. No torch here.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import NDArray

from efficientad.decisions.decision import Calibration
from efficientad.engines.engine import Engine, EngineOutput, Precision
from efficientad.engines.weights import Arrays
from efficientad.errors import ConfigError, ModelFileError, needs_extra
from efficientad.images.appearance import is_exchanged, redness
from efficientad.images.listing import images_at
from efficientad.images.pose import Pose
from efficientad.images.preparation import AS_IT_IS, Preparation
from efficientad.images.rgb import ColorOrder, ImageLike, Layout, resize_image
from efficientad.inspection.prediction import Prediction, Predictions
from efficientad.inspection.tiling import Size, require_similar_aspect, run
from efficientad.method.maps import Grids, normalize_maps
from efficientad.method.sizes import ModelSize
from efficientad.model_files.json_text import training_of
from efficientad.settings import checks_arguments, explains_freezing

if TYPE_CHECKING:
    from efficientad.method.detector import Detector

_MAX_BATCH: Final = 16
_N_COMPARED: Final = 256
"""Rows and columns, at least, that stand for the colors of a large image."""

logger = logging.getLogger(__name__)


@final
@explains_freezing("call with_threshold for another one, or efficientad.threshold")
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Predictor:
    """Predicts which images are anomalous, and where.

    Made by `train`, or read from a file by `load`. It does not change: `calibrate`
    returns another one.
    """

    engine: Engine
    """Engine that computes the raw maps."""

    calibration: Calibration
    """Scales of maps and scores, and the threshold."""

    provenance: Mapping[str, Any]
    """How the model came to be: settings, hashes, versions; JSON-like."""

    size: ModelSize | None = None
    """The paper's S or M: `small` or `medium`. None: another method."""

    preparation: Preparation = AS_IT_IS
    """How images are read, aligned and resized."""

    weights: Arrays | None = None
    """Weights and statistics of the networks, by name. None for an exported file."""

    @cached_property
    def detector(self) -> "Detector | None":
        """The networks in PyTorch, on the CPU, for research.

        None for an exported file.

        Raises:
            MissingDependencyError: If PyTorch is not installed.
        """
        if self.weights is None or self.size is None:
            return None
        with needs_extra("the detector in PyTorch", "train"):
            from efficientad.method.detector import Detector  # noqa: PLC0415
        return Detector.from_arrays(self.weights, self.size)

    @property
    def precision(self) -> Precision:
        """Precision of the engine."""
        return self.engine.precision

    @property
    def threshold(self) -> float:
        """Scores above it are called anomalous; `with_threshold` changes it."""
        return self.calibration.threshold

    @checks_arguments
    def with_threshold(self, at: float) -> "Predictor":
        """Return this predictor with a threshold set by hand.

        Raises:
            ConfigError: If it is not a finite number.
        """
        return replace(self, calibration=replace(self.calibration, given_threshold=at))

    def __repr__(self) -> str:
        calibration, engine = self.calibration, self.engine
        return (
            f"<Predictor {self.size}, {training_of(self.provenance)}; threshold "
            f"{calibration.threshold:.4g} from {len(calibration.normal_scores)} "
            f"held-out images; {type(engine).__name__}, {engine.precision} on "
            f"{engine.device}>"
        )

    def predict(
        self, image: ImageLike, *, color: ColorOrder = "rgb", layout: Layout = "hwc"
    ) -> Prediction:
        """Predict one image of any size.

        Args:
            image: Path, bytes, open file, Pillow image, or an array or tensor of shape
                (height, width, 3) or (height, width), RGB.
            color: Order of the channels of an array: `rgb`, or `bgr` as OpenCV reads.
            layout: Order of the axes of an array: `hwc`, or `chw` as in most tensors.

        Raises:
            ConfigError: If several images are given, or a folder.
            ImageError: If the image cannot be read or used.
            ModelFileError: If the model gives no finite maps for it.
        """
        is_folder = isinstance(image, (str, Path)) and Path(image).is_dir()
        if is_folder or isinstance(image, (list, tuple)):
            raise ConfigError(
                f"predict needs one image, got a {'folder' if is_folder else 'list'}; "
                "use predict_batch, which takes lists, folders and patterns"
            )
        return self.predict_batch([image], color=color, layout=layout)[0]

    @checks_arguments
    def predict_batch(
        self,
        images: Sequence[ImageLike] | str | Path,
        *,
        color: ColorOrder = "rgb",
        layout: Layout = "hwc",
    ) -> Predictions:
        """Predict several images, of any sizes, up to 16 in one run of the engine.

        Args:
            images: List or other sequence of images as for `predict`; of an array, make
                a list first. Or a folder, searched at any depth, or a pattern such as
                `parts/*.png`.
            color: Order of the channels of arrays, as for `predict`.
            layout: Order of the axes of arrays, as for `predict`.

        Raises:
            ConfigError: If it is none.
            DatasetError: If there is no image in a folder.
            ImageError: If an image cannot be read or used.
            ModelFileError: If the model gives no finite maps for one.
        """
        if isinstance(images, (str, Path)):
            images = images_at(Path(images))
        found, prepared = Predictions(), self.preparation
        for start in range(0, len(images), _MAX_BATCH):
            pixels, sources = [], []
            for image in images[start : start + _MAX_BATCH]:
                array = prepared.read(image, color=color, layout=layout)
                size = array.shape[0], array.shape[1]
                self.calibration.rule.require_aspect(*size)
                require_similar_aspect(size, prepared.size)
                pose = None
                if prepared.alignment is not None:
                    pose = prepared.alignment.pose(array)
                    array = pose.aligned(array)
                path = Path(image) if isinstance(image, (str, Path)) else None
                sources.append((size, pose, path))
                pixels.append(resize_image(array, *prepared.size))
                self.compare_colors(pixels[-1])
            output = run(self.engine, np.stack(pixels), self.calibration.rule)
            found += self._decided(output, sources)
        return found

    def compare_colors(self, pixels: NDArray[np.uint8]) -> None:
        """Warn once if red and blue look exchanged against the calibration's images."""
        normal = self.provenance.get("validation_appearance", {}).get("redness", ())
        step = max(1, min(pixels.shape[:2]) // _N_COMPARED)
        if is_exchanged(redness(pixels[::step, ::step]), normal):
            _ = self._color_warning

    @cached_property
    def _color_warning(self) -> None:
        """Log the warning when it is first asked for."""
        logger.warning(
            "red and blue look exchanged against the pictures of the training; arrays "
            "are RGB, and OpenCV's need color='bgr'"
        )

    def _decided(
        self,
        output: EngineOutput,
        sources: Sequence[tuple[Size, Pose | None, Path | None]],
    ) -> Iterator[Prediction]:
        """Yield the predictions of images, of which size, pose and file are known.

        Raises:
            ModelFileError: If a grid is not finite: it would pass as normal.
        """
        calibration = self.calibration
        grids = finite_grids(calibration, output)
        scores, terms = calibration.scores(grids, output.values)
        each = zip(scores.tolist(), sources, strict=True)
        for index, (score, (size, pose, path)) in enumerate(each):
            yield Prediction(
                image_score=score,
                p_value=calibration.p_value(score),
                threshold=calibration.threshold,
                height=size[0],
                width=size[1],
                grids={name: grid[index] for name, grid in grids.items()},
                terms={name: float(term[index]) for name, term in terms.items()},
                normal_range=calibration.normal_range,
                unsure_threshold=calibration.unsure_threshold,
                rule=calibration.rule,
                pose=pose,
                path=path,
                levels=self.preparation.levels,
                n_normal=len(calibration.normal_scores),
            )


def finite_grids(calibration: Calibration, output: EngineOutput) -> Mapping[str, Grids]:
    """Return the normalized maps of an engine's output by name, (n, rows, columns).

    Raises:
        ModelFileError: If a grid is not finite: it would pass as normal.
    """
    rule = calibration.rule
    grids = normalize_maps(output.grids, calibration.scales, rule.cells)
    if not all(np.isfinite(grid).all() for grid in grids.values()):
        raise ModelFileError(
            "a decision needs finite maps for every image, the model gives others; "
            "use a higher precision, or train it again"
        )
    return grids
