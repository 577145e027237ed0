"""The plain baseline: the networks as the reference script (nelson1425) runs them.

Three `nn.Sequential` networks of plain layers, unpadded, float32, eager, in PyTorch's
default memory layout, on normalized images; nothing folded, fused or shared. The
weights are a detector's own, so that baseline and package compute the same maps.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from efficientad.engines.engine import EngineOutput, Precision
from efficientad.method.composition import image_values
from efficientad.method.detector import Detector
from efficientad.method.inputs import Pixels, normalize_images
from efficientad.method.networks import (
    Autoencoder,
    PatchDescriptionNetwork,
    plain_network,
)
from efficientad.method.sizes import (
    AUTOENCODER,
    DESCRIPTOR_CHANNELS,
    PATCH_DESCRIPTION_NETWORKS,
    ModelSize,
    unpadded,
    with_channels,
)

_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Baseline(NamedTuple):
    """The three networks and the teacher's channel statistics."""

    teacher: nn.Sequential
    student: nn.Sequential
    autoencoder: nn.Sequential
    mean: Tensor
    std: Tensor

    def moved(self, device: torch.device, dtype: torch.dtype) -> "Baseline":
        """Return them on a device and in a precision."""
        return Baseline(
            teacher=self.teacher.to(device, dtype),
            student=self.student.to(device, dtype),
            autoencoder=self.autoencoder.to(device, dtype),
            mean=self.mean.to(device, dtype),
            std=self.std.to(device, dtype),
        )


def pdn(size: ModelSize, n_channels: int) -> nn.Sequential:
    """Return a patch description network without padding and with random weights."""
    layers = with_channels(PATCH_DESCRIPTION_NETWORKS[size], n_channels, n_channels)
    return plain_network(unpadded(layers))


def autoencoder() -> nn.Sequential:
    """Return an autoencoder of random weights for a grid of 56 x 56 descriptors."""
    return plain_network(AUTOENCODER)


def baseline(detector: Detector) -> Baseline:
    """Return the plain networks with the weights of a detector, for evaluation."""
    size = detector.size
    n_local = len(detector.teacher_mean)
    n_global = detector.autoencoder.describe.out_channels
    # Channels that a detector leaves out are zeros here: the same maps, all the work.
    mean = detector.teacher_mean.new_zeros(DESCRIPTOR_CHANNELS)
    std = torch.ones_like(mean)
    mean[:n_local] = detector.teacher_mean * _scale(n_local)
    std[:n_local] = detector.teacher_std
    return Baseline(
        _filled(pdn(size, DESCRIPTOR_CHANNELS), detector.teacher, [n_local]),
        _filled(
            pdn(size, 2 * DESCRIPTOR_CHANNELS), detector.student, [n_local, n_global]
        ),
        _filled(autoencoder(), detector.autoencoder, [n_global]),
        mean,
        std,
    )


@torch.no_grad()
def outputs(
    networks: Baseline, pixels: Pixels
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Return the raw maps of RGB pixels, (n, 256, 256, 3), and hidden features.

    The features are those that teacher and student compute descriptors of.
    """
    device, dtype = networks.mean.device, networks.mean.dtype
    images = normalize_images(pixels.to(device)).to(dtype)
    hidden = networks.teacher[:-1](images), networks.student[:-1](images)
    teacher = networks.teacher[-1](hidden[0])
    shape = (1, -1, 1, 1)
    teacher = (teacher - networks.mean.view(shape)) / networks.std.view(shape)
    student = networks.student[-1](hidden[1])
    described = networks.autoencoder(images)
    local_map = (teacher - student[:, :DESCRIPTOR_CHANNELS]).square().mean(1)
    global_map = (described - student[:, DESCRIPTOR_CHANNELS:]).square().mean(1)
    return {"local": local_map, "global": global_map}, hidden


class BaselineEngine:
    """The plain networks as an engine.

    Args:
        detector: Networks whose weights are copied; the copies stay on its device.
        precision: Precision of the networks.
    """

    is_concurrent = True

    def __init__(
        self, detector: Detector, precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    ) -> None:
        self.precision: Precision = precision
        self.device: Literal["cpu", "cuda"] = (
            "cuda" if detector.device.type == "cuda" else "cpu"
        )
        self.networks = baseline(detector).moved(detector.device, _TYPES[precision])
        self._detector = detector

    @torch.inference_mode()
    def run(self, pixels: NDArray[np.uint8]) -> EngineOutput:
        """Compute the raw maps and values of a batch, (n, 256, 256, 3)."""
        maps, hidden = outputs(self.networks, torch.from_numpy(pixels))
        cells = self._detector.cells(*(features.float() for features in hidden))
        return EngineOutput(
            {name: raw.float().cpu().numpy() for name, raw in maps.items()},
            image_values(cells.cpu().numpy(), self._detector.composition),
        )


def _scale(n_own: int) -> float:
    """Return the factor by which each of fewer channels counts more in the mean."""
    scale: float = (DESCRIPTOR_CHANNELS / n_own) ** 0.5
    return scale


@torch.no_grad()
def _filled(
    plain: nn.Sequential,
    network: PatchDescriptionNetwork | Autoencoder,
    n_own: Sequence[int],
) -> nn.Sequential:
    """Copy the weights of the convolutions, which have the same order in both.

    Each part of `n_own` channels fills 384 outputs of the plain network.
    """
    *convolutions, last = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    *places, last_place = (m for m in plain if isinstance(m, nn.Conv2d))
    for place, convolution in zip(places, convolutions, strict=True):
        place.load_state_dict(convolution.state_dict())
    assert last.bias is not None
    assert last_place.bias is not None
    for filled, own in (
        (last_place.weight, last.weight),
        (last_place.bias, last.bias),
    ):
        filled.zero_()
        wide = torch.split(filled, DESCRIPTOR_CHANNELS)
        for part, narrow in zip(wide, torch.split(own, list(n_own)), strict=True):
            part[: len(narrow)] = narrow * _scale(len(narrow))
    return plain.eval().requires_grad_(requires_grad=False)
