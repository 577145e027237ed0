"""One `Predictor`, whatever computes behind it.

Everything that judges images (prediction, evaluation, benchmarks) asks for this
protocol only, so tests give it a fake and other engines can stand behind it. No torch
here.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from efficientad.images.rgb import ImageLike
from efficientad.method.decision import Prediction

DetectorRuntime = Literal["native", "native_bf16", "pytorch"]
"""What computes a detector that is not exported: native layers; these with the 1 x 1
convolutions of the medium size in bf16; PyTorch."""


@runtime_checkable
class Predictor(Protocol):
    """Judges images."""

    def predict(self, image: ImageLike) -> Prediction:
        """Judge one image of any size."""
        ...

    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Judge several images, of any sizes."""
        ...
