"""The detector: teacher, student, autoencoder and calibration, joined.

    teacher      describes each patch, trained on natural images, frozen
    student      imitates the teacher, and the autoencoder, on normal images only
    autoencoder  predicts the teacher's descriptors from the whole image

Where student and teacher differ, a patch is unlike all normal ones: the local map.
Where student and autoencoder differ, the arrangement is: the global map.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from efficientad.engines.native import NativeMaps
from efficientad.errors import NotCalibratedError
from efficientad.images.rgb import INPUT_SIZE, ImageLike, as_rgb, resize_image
from efficientad.inspection.predictor import DetectorRuntime
from efficientad.kernels import layers
from efficientad.kernels.native import warn_once
from efficientad.kernels.winograd import FAST
from efficientad.method.decision import Calibration, Prediction
from efficientad.method.inputs import Images, Pixels, normalize_images
from efficientad.method.losses import mean_square_map
from efficientad.method.maps import (
    AnomalyMaps,
    RawMaps,
    image_scores,
    normalize_maps,
)
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import DESCRIPTOR_CHANNELS, ModelSize

Descriptors = Float[Tensor, "batch channels rows columns"]
Channels = Float[Tensor, " channels"]


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each teacher channel over the training images."""

    mean: Channels
    std: Channels


FOR_TEACHER: Final = slice(DESCRIPTOR_CHANNELS)
FOR_AUTOENCODER: Final = slice(DESCRIPTOR_CHANNELS, 2 * DESCRIPTOR_CHANNELS)
"""The halves of a student's channels while it is trained."""


class Differences(NamedTuple):
    """What the maps sum up the squares of."""

    local: Descriptors
    """Teacher minus student."""
    global_: Descriptors
    """Autoencoder minus student."""


_Fingerprint = tuple[tuple[int, int], ...]


def _fingerprint(module: nn.Module) -> _Fingerprint:
    """Tell apart weights, and states of them: any change in place counts a version."""
    tensors = (*module.parameters(), *module.buffers())
    return tuple(
        (t.data_ptr(), 0 if t.is_inference() else t._version)  # noqa: SLF001 - PyTorch names it so
        for t in tensors
    )


class Detector(nn.Module):
    """EfficientAD: finds what no normal image showed.

    Made by `train`, or read from a file by `load`.

    Args:
        teacher: Of 384 channels, or of fewer where a trained detector was reduced.
        student: Of those of the teacher, and those of the autoencoder behind them.
        autoencoder: Of 384 channels, or of fewer.
        statistics: Of the teacher's channels.
    """

    teacher_mean: Tensor
    teacher_std: Tensor

    def __init__(
        self,
        teacher: PatchDescriptionNetwork,
        student: PatchDescriptionNetwork,
        autoencoder: Autoencoder,
        statistics: ChannelStatistics,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.student = student
        self.autoencoder = autoencoder
        self.register_buffer("teacher_mean", statistics.mean)
        self.register_buffer("teacher_std", statistics.std)
        self.calibration: Calibration | None = None
        self.provenance: dict[str, Any] = {}
        """How the detector came to be: settings, hashes, versions; JSON-like."""
        self.runtime: DetectorRuntime = "native"
        """What judges images where it works; PyTorch where it does not."""
        self._native: tuple[DetectorRuntime, _Fingerprint, NativeMaps] | None = None

    @property
    def size(self) -> ModelSize:
        """The paper's S or M."""
        return self.student.size

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.teacher_mean.device

    def describe(self, images: Images) -> Descriptors:
        """Give the teacher's descriptors, normalized per channel."""
        shape = (1, -1, 1, 1)
        descriptors: Tensor = self.teacher(images)
        centred = descriptors - self.teacher_mean.view(shape)
        return centred / self.teacher_std.view(shape)

    def differences(self, images: Images) -> Differences:
        """Compare the networks on normalized images of 256 x 256 pixels."""
        teacher = self.describe(images)
        autoencoder = self.autoencoder(images)
        n_channels = teacher.shape[1], autoencoder.shape[1]
        for_teacher, for_autoencoder = self.student(images).split(n_channels, dim=1)
        return Differences(teacher - for_teacher, autoencoder - for_autoencoder)

    def raw_maps(self, images: Images) -> RawMaps:
        """Give the maps of normalized images of 256 x 256 pixels, not normalized."""
        differences = self.differences(images)
        return RawMaps(
            mean_square_map(differences.local), mean_square_map(differences.global_)
        )

    @property
    def runtimes(self) -> tuple[DetectorRuntime, ...]:
        """What can judge images here, each with numbers or a speed of its own."""
        works_native = (
            self.device.type == "cpu"
            and self.teacher_mean.dtype == torch.float32
            and layers.is_available()
        )
        if not works_native:
            return ("pytorch",)
        if self.size == "medium" and layers.has_bf16():
            return "native", "native_bf16", "pytorch"
        return "native", "pytorch"

    @property
    def is_native(self) -> bool:
        """Whether images are judged by native layers."""
        return self.runtime != "pytorch" and "native" in self.runtimes

    @torch.no_grad()
    def judged_maps(self, pixels: Pixels) -> RawMaps:
        """Compare the networks on pixels of 256 x 256, without gradients.

        The numbers are those of `raw_maps` in evaluation mode but for rounding, sooner
        where native layers work.
        """
        self.eval()
        if not self.is_native:
            for network in (self.teacher, self.student, self.autoencoder):
                network.operations = FAST
            return self.raw_maps(normalize_images(pixels.to(self.device)))
        return self._native_maps()(pixels)

    def _native_maps(self) -> NativeMaps:
        """Give the native layers of the weights as they are now."""
        key = self.runtime, _fingerprint(self)
        if self._native is None or self._native[:2] != key:
            bf16 = self.runtime == "native_bf16"
            if bf16 and self.size == "medium" and not layers.has_bf16():
                warn_once(
                    "they do not work here", "products in bf16", "single precision"
                )
                bf16 = False
            native_maps = NativeMaps(
                self.teacher,
                self.student,
                self.autoencoder,
                self.teacher_mean,
                self.teacher_std,
                bf16=bf16,
            )
            self._native = *key, native_maps
        return self._native[2]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_native": None}

    def anomaly_maps(self, images: Images) -> AnomalyMaps:
        """Give the normalized maps of normalized images, on the descriptor grid.

        Raises:
            NotCalibratedError: If the detector has no calibration.
        """
        return normalize_maps(self.raw_maps(images), self._calibrated())

    def predict(self, image: ImageLike) -> Prediction:
        """Judge one image of any size.

        Args:
            image: Path, PIL image, or array (height, width, 3) or (height, width).

        Raises:
            ImageError: If the image cannot be read or used.
            NotCalibratedError: If the detector has no calibration.
        """
        return self.predict_batch([image])[0]

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Judge several images, of any sizes, in one pass of the networks."""
        self._calibrated()
        if not images:
            return []
        arrays = [as_rgb(image) for image in images]
        pixels = np.stack([resize_image(a, INPUT_SIZE, INPUT_SIZE) for a in arrays])
        raw = self.judged_maps(torch.from_numpy(pixels))
        return self.decided(raw, [(a.shape[0], a.shape[1]) for a in arrays])

    def decided(
        self, raw: RawMaps, sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Give the predictions that follow from raw maps by the calibration.

        Args:
            raw: Of a batch of images.
            sizes: Height and width of each image.

        Raises:
            NotCalibratedError: If the detector has no calibration.
        """
        calibration = self._calibrated()
        maps = normalize_maps(raw, calibration)
        scores = image_scores(maps.combined_map).tolist()
        local_maps = maps.local_map.float().cpu().numpy()
        global_maps = maps.global_map.float().cpu().numpy()
        return [
            Prediction(
                image_score=score,
                p_value=calibration.p_value(score),
                threshold=calibration.threshold,
                height=height,
                width=width,
                local_grid=local_map,
                global_grid=global_map,
            )
            for (height, width), score, local_map, global_map in zip(
                sizes, scores, local_maps, global_maps, strict=True
            )
        ]

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise NotCalibratedError(
                "anomaly maps need a calibration: "
                "call calibrate(detector, normal_images)"
            )
        return self.calibration
