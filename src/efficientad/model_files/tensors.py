"""Arrays of model files as PyTorch's tensors, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from efficientad.model_files.container import Arrays


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Return tensors of any device as arrays; those on the CPU share their memory."""
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}


def as_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Return copies of arrays as tensors on the CPU."""
    return {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
