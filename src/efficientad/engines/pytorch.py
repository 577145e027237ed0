"""A detector's networks by PyTorch, on the CPU or on CUDA."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from efficientad.engines.engine import EngineOutput, Pixels, Precision
from efficientad.engines.names import Device
from efficientad.errors import ConfigError
from efficientad.kernels.winograd import FAST
from efficientad.method.composition import image_values
from efficientad.method.detector import Detector
from efficientad.method.inputs import normalize_images


def choose_device(device: Device) -> torch.device:
    """Return the device; `auto` takes CUDA where there is one.

    Raises:
        ConfigError: If CUDA is asked for and not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device cuda was asked for, but this PyTorch finds no CUDA device; use cpu"
        )
    return torch.device(device)


class PyTorchEngine:
    """Runs a detector's networks in evaluation mode, on their device."""

    is_concurrent = False
    precision: Precision = "fp32"

    def __init__(self, detector: Detector) -> None:
        self._detector = detector.eval()
        for network in (detector.teacher, detector.student, detector.autoencoder):
            network.operations = FAST

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Device of the networks."""
        return "cuda" if self._detector.device.type == "cuda" else "cpu"

    @torch.inference_mode()
    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute the raw maps and values of a batch, (n, 256, 256, 3)."""
        images = torch.from_numpy(pixels).to(self._detector.device)
        maps, cells = self._detector.outputs(normalize_images(images))
        return EngineOutput(
            {name: raw.float().cpu().numpy() for name, raw in maps.items()},
            image_values(cells.float().cpu().numpy(), self._detector.composition),
        )

    @torch.inference_mode()
    def run_local(self, pixels: Pixels) -> NDArray[np.float32]:
        """Compute the local maps of a batch, (n, height, width, 3), of any size."""
        images = torch.from_numpy(pixels).to(self._detector.device)
        raw = self._detector.local_map(normalize_images(images))
        return raw.float().cpu().numpy()
