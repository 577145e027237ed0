"""An engine that caches the raw maps of every image.

Another normalization needs the same raw maps.
"""

from typing import Literal

import numpy as np

from efficientad.calibration.scoring import joined
from efficientad.engines.engine import Engine, EngineOutput, Pixels, Precision
from efficientad.images.rgb import image_hash


class CachingEngine:
    """Runs another engine once for each image; 25 KB an image stay in memory."""

    is_concurrent = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache: dict[str, EngineOutput] = {}

    @property
    def precision(self) -> Precision:
        """Precision of the engine."""
        return self._engine.precision

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Device of the engine."""
        return self._engine.device

    def run(self, pixels: Pixels) -> EngineOutput:
        """Return grids and values of a batch, computed now or before."""
        return joined([self._output_of(image) for image in pixels])

    def _output_of(self, image: Pixels) -> EngineOutput:
        digest = image_hash(image)
        if digest not in self._cache:
            self._cache[digest] = self._engine.run(image[np.newaxis])
        return self._cache[digest]
