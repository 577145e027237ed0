"""Which device the networks run on."""

import torch

from efficientad.engines.names import Device
from efficientad.errors import ConfigError


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
