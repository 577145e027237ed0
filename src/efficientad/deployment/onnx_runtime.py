"""Exported detectors on ONNX Runtime: no torch, no training code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efficientad.deployment.graph import GRID_OUTPUTS, INPUT, SCORE_OUTPUT
from efficientad.errors import ConfigError, MissingDependencyError, ModelFileError
from efficientad.images import ImageLike, as_rgb
from efficientad.method.decision import Calibration, MapQuantiles, Prediction

METADATA_KEY = "efficientad"
FORMAT_VERSION = 1


class OnnxPredictor:
    """Judges images with a file `efficientad export` wrote.

    Args:
        path: The .onnx file.
        n_threads: Of one prediction. None: as many as there are cores.

    Raises:
        ModelFileError: If the file is damaged, foreign or of another version.
        MissingDependencyError: If onnxruntime is not installed.
    """

    def __init__(self, path: Path | str, *, n_threads: int | None = None) -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - only this engine needs it
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"{path} needs onnxruntime, which is not installed; "
                "run: pip install 'efficientad[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads or 0
        # Messages of the engine itself: errors only.
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # The engine's own exceptions share no base but this one.
            raise ModelFileError(
                f"{path} is not an ONNX file that can be read; export it again"
            ) from error
        self.calibration = _calibration(
            Path(path), self._session.get_modelmeta().custom_metadata_map
        )

    def predict(self, image: ImageLike) -> Prediction:
        """Judge one image of any size.

        Raises:
            ImageError: If the image cannot be read or used.
        """
        rgb = as_rgb(image)
        score, local_grid, global_grid = self._session.run(
            [SCORE_OUTPUT, *GRID_OUTPUTS], {INPUT: rgb[np.newaxis]}
        )
        return Prediction(
            image_score=float(score[0]),
            p_value=self.calibration.p_value(float(score[0])),
            threshold=self.calibration.threshold,
            height=rgb.shape[0],
            width=rgb.shape[1],
            local_grid=local_grid[0],
            global_grid=global_grid[0],
        )

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Judge several images, of any sizes, one after the other."""
        return [self.predict(image) for image in images]


def _calibration(path: Path, metadata: dict[str, str]) -> Calibration:
    try:
        content: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        version = content["format"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelFileError(
            f"{path} is not an export of this package; make one with "
            "`efficientad export`"
        ) from error
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has export format {version}, this version reads "
            f"{FORMAT_VERSION}; export it again"
        )
    try:
        given = dict(content["calibration"])
        for name in ("local_quantiles", "global_quantiles"):
            given[name] = MapQuantiles(**given[name])
        given["normal_scores"] = tuple(given["normal_scores"])
        return Calibration(**given)
    except (KeyError, TypeError, ConfigError) as error:
        raise ModelFileError(
            f"{path} does not hold a complete calibration (bad entry: {error}); "
            "export it again"
        ) from error
