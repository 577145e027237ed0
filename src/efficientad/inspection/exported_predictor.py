"""Exported detectors: the same answers without torch and without training code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from efficientad.cores import usable_cores
from efficientad.engines.exported import (
    Engine,
    EngineName,
    Judged,
    OnnxRuntimeEngine,
    OpenVinoEngine,
    require_counts,
    require_utf8,
)
from efficientad.engines.tensorrt import TensorRtEngine
from efficientad.errors import ImageError, ModelFileError
from efficientad.exports.graph_nodes import MAX_SIDE
from efficientad.images.rgb import INPUT_SIZE, ImageLike, as_rgb, resize_image
from efficientad.method.decision import Prediction
from efficientad.model_files import export_metadata as metadata
from efficientad.model_files.export_metadata import Precision

_MAX_BATCH: Final = 16
_RGB: Final = (4, (3,))
"""Axes, and size of the last one."""


class ExportedPredictor:
    """Judges images with a file `efficientad export` wrote.

    May be called from several threads at once.

    Args:
        path: The .onnx or .xml file.
        engine: What runs it. None: what the file is made for.
        n_threads: Of one prediction. None: as many as there are cores.
        n_streams: Predictions at the same time that the engine shall expect.

    Raises:
        ModelFileError: If the file is damaged, foreign or of another version, or its
            name no UTF-8.
        ConfigError: If the processor has not what the file's precision needs, or a
            number is below 1.
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
        require_counts(n_threads=n_threads, n_streams=n_streams)
        self._path = path = Path(path)
        require_utf8(path)
        found = metadata.read(path)
        self.size, self.precision = found.size, found.precision
        self.calibration, self.provenance = found.calibration, found.provenance
        self._engine = _opened(path, engine, found.precision, n_threads, n_streams)

    def predict(self, image: ImageLike) -> Prediction:
        """Judge one image of any size.

        Raises:
            ImageError: If the image cannot be read or used.
            ModelFileError: If the file gives no numbers for it.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Judge several images, of any sizes, up to 16 in one run.

        Raises:
            ImageError: If an image cannot be read or used.
            ModelFileError: If the file gives no numbers for one.
        """
        found: list[Prediction] = []
        for start in range(0, len(images), _MAX_BATCH):
            small, sizes = [], []
            for image in images[start : start + _MAX_BATCH]:
                array = as_rgb(image)
                # As the graph does it, to the bit, in a fraction of the time.
                small.append(resize_image(array, INPUT_SIZE, INPUT_SIZE))
                sizes.append((array.shape[0], array.shape[1]))
            found += self._decided(self.judge(np.stack(small)), sizes)
        return found

    def judge(self, images: NDArray[Any]) -> Judged:
        """Give what the graph says of images of one size, which it resizes itself.

        Args:
            images: RGB, uint8, (batch, height, width, 3), no side above
                `graph_nodes.MAX_SIDE`. TensorRT's engine takes 256 x 256 only.

        Raises:
            ImageError: If they are larger, or not of that shape and type.
        """
        is_rgb = images.dtype == np.uint8 and (images.ndim, images.shape[-1:]) == _RGB
        if not is_rgb or not 0 < min(images.shape) <= max(images.shape) <= MAX_SIDE:
            raise ImageError(
                "a graph takes uint8 images (batch, height, width, 3) of up to "
                f"{MAX_SIDE} pixels a side, got {images.dtype} {images.shape}; reduce "
                "them, or call predict, which does"
            )
        return self._engine.run(images)

    def _decided(
        self, judged: Judged, sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        # Of the grids, too: an engine's maximum may pass over what is not a number.
        if not all(np.isfinite(part).all() for part in judged):
            raise ModelFileError(
                f"{self._path} must give a finite score and maps for every image, for "
                "one it does not; export it again in a higher precision"
            )
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
            for (height, width), score, local_grid, global_grid in zip(
                sizes, *judged, strict=True
            )
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
            n_threads = max(1, usable_cores() // n_streams)
        return OnnxRuntimeEngine(path, n_threads=n_threads)
    n_of_all = None if n_threads is None else n_threads * n_streams
    return OpenVinoEngine(
        path, precision=precision, n_threads=n_of_all, n_streams=n_streams
    )
