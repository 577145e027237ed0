"""Judge the same images again without the networks.

Another normalization changes what follows from the raw maps, never the maps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efficientad.images.rgb import (
    INPUT_SIZE,
    ImageLike,
    as_rgb,
    image_hash,
    resize_image,
)
from efficientad.method.decision import Calibration, Prediction
from efficientad.method.detector import Detector
from efficientad.method.maps import RawMaps
from efficientad.method.sizes import ModelSize


class KeptMaps:
    """A detector that keeps the raw maps of every image it judged, 25 KB each."""

    def __init__(self, detector: Detector) -> None:
        """Judge by a detector, with the calibration it has when asked."""
        self.detector = detector
        self._kept: dict[str, RawMaps] = {}

    @property
    def provenance(self) -> dict[str, Any]:
        """How the detector came to be."""
        return self.detector.provenance

    @property
    def calibration(self) -> Calibration | None:
        """The detector's, as it is now."""
        return self.detector.calibration

    @property
    def size(self) -> ModelSize:
        """The paper's S or M."""
        return self.detector.size

    def judged_maps(self, pixels: Tensor) -> RawMaps:
        """Give the raw maps of pixels, (batch, 256, 256, 3), as the detector does."""
        maps = [self._maps_of(image) for image in pixels]
        return RawMaps(
            torch.cat([each.local_map for each in maps]),
            torch.cat([each.global_map for each in maps]),
        )

    def predict(self, image: ImageLike) -> Prediction:
        """Judge one image of any size."""
        return self.predict_batch([image])[0]

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Judge several images, of any sizes."""
        arrays = [as_rgb(image) for image in images]
        pixels = [resize_image(array, INPUT_SIZE, INPUT_SIZE) for array in arrays]
        raw = self.judged_maps(torch.from_numpy(np.stack(pixels)))
        return self.detector.decided(raw, [(a.shape[0], a.shape[1]) for a in arrays])

    def _maps_of(self, pixels: Tensor) -> RawMaps:
        digest = image_hash(pixels.numpy())
        if digest not in self._kept:
            self._kept[digest] = self.detector.judged_maps(pixels[None])
        return self._kept[digest]
