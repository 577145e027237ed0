"""Exported detectors: the same answers without torch and without training code."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np

from efficientad.deployment import metadata
from efficientad.deployment.engines import (
    Engine,
    EngineName,
    OnnxRuntimeEngine,
    OpenVinoEngine,
)
from efficientad.deployment.graph_nodes import MAX_SIDE
from efficientad.deployment.metadata import Precision
from efficientad.deployment.tensorrt_engine import TensorRtEngine
from efficientad.errors import ImageError
from efficientad.images import ImageLike, RGBImage, as_rgb
from efficientad.method.decision import Prediction

_MAX_BATCH: Final = 16


class ExportedPredictor:
    """Judges images with a file `efficientad export` wrote.

    May be called from several threads at once.

    Args:
        path: The .onnx or .xml file.
        engine: What runs it. None: what the file is made for.
        n_threads: Of one prediction. None: as many as there are cores.
        n_streams: Predictions at the same time that the engine shall expect.

    Raises:
        ModelFileError: If the file is damaged, foreign or of another version.
        ConfigError: If the processor has not what the file's precision needs.
        MissingDependencyError: If the engine is not installed.
    """

    is_concurrent = True

    def __init__(
        self,
        path: Path | str,
        *,
        engine: EngineName | None = None,
        n_threads: int | None = None,
        n_streams: int = 1,
    ) -> None:
        path = Path(path)
        found = metadata.read(path)
        self.size, self.precision = found.size, found.precision
        self.calibration, self.provenance = found.calibration, found.provenance
        self._engine = _opened(path, engine, found.precision, n_threads, n_streams)

    def predict(self, image: ImageLike) -> Prediction:
        """Judge one image of any size.

        Raises:
            ImageError: If the image cannot be read or used.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Judge several images, of any sizes; neighbours of one size run together.

        Raises:
            ImageError: If an image cannot be read or used.
        """
        found: list[Prediction] = []
        arrays = (_fitting(as_rgb(image)) for image in images)
        for _, same in groupby(arrays, key=lambda array: array.shape):
            for batch in _batches(same):
                found += self._judged(batch)
        return found

    def _judged(self, batch: Sequence[RGBImage]) -> list[Prediction]:
        judged = self._engine.run(np.stack(batch))
        height, width, _ = batch[0].shape
        return [
            Prediction(
                image_score=float(score),
                p_value=self.calibration.p_value(float(score)),
                threshold=self.calibration.threshold,
                height=height,
                width=width,
                local_grid=local_grid,
                global_grid=global_grid,
            )
            for score, local_grid, global_grid in zip(*judged, strict=True)
        ]


def _opened(
    path: Path,
    name: EngineName | None,
    precision: Precision,
    n_threads: int | None,
    n_streams: int,
) -> Engine:
    if name is None:
        name = "onnxruntime" if path.suffix == metadata.ONNX_SUFFIX else "openvino"
    if name == "tensorrt":
        return TensorRtEngine(path, precision=precision)
    if name == "onnxruntime":
        if n_threads is None and n_streams > 1:
            n_threads = max(1, (os.cpu_count() or 1) // n_streams)
        return OnnxRuntimeEngine(path, n_threads=n_threads)
    return OpenVinoEngine(
        path, precision=precision, n_threads=n_threads, n_streams=n_streams
    )


def _fitting(image: RGBImage) -> RGBImage:
    height, width, _ = image.shape
    if max(height, width) > MAX_SIDE:
        raise ImageError(
            f"an exported detector takes up to {MAX_SIDE} pixels a side, the given "
            f"image has {width} x {height}; cut it into tiles, or use the .ead file"
        )
    return image


def _batches(images: Iterator[RGBImage]) -> Iterator[list[RGBImage]]:
    batch: list[RGBImage] = []
    for image in images:
        batch.append(image)
        if len(batch) == _MAX_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
