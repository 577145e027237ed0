"""Weights files of other programs, read without running anything that is in them.

A `.pth` file is a pickle, and a pickle can hold code. Only tensors and plain containers
are taken from it; a file that asks for more is refused. A `.safetensors` file cannot
hold code at all.
"""

import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from efficientad.errors import ModelFileError

WEIGHTS_SUFFIXES: Final = (".pt", ".pth", ".safetensors")
# `torch.load` raises these on damaged files, besides `UnpicklingError`.
_DAMAGE: Final = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
    OSError,
)


@final
@dataclass(frozen=True, slots=True)
class Weights:
    """Named tensors of one file, and the text of a safetensors header."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """Return a finite tensor of a shape as float32, or raise `ModelFileError`."""
        if name not in self.tensors:
            raise ModelFileError(
                f"{self.path} lacks the tensor {name}; give a file with all weights up"
                " to the stage of stride 16"
            )
        tensor = self.tensors[name].detach().to(torch.float32)
        if shape is not None and tuple(tensor.shape) != shape:
            raise ModelFileError(
                f"{self.path}: the tensor {name} needs shape {shape}, has"
                f" {tuple(tensor.shape)}; give the weights of an unmodified network"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(
                f"{self.path}: the tensor {name} holds values that are not finite; give"
                " an undamaged file"
            )
        return tensor


def read_weights(path: Path) -> Weights:
    """Read a `.safetensors`, `.pth` or `.pt` file (zip and older format) on the CPU.

    Raises:
        ModelFileError: If the file is missing, damaged, of another kind, holds code, or
            holds no named tensors.
    """
    if path.suffix.lower() not in WEIGHTS_SUFFIXES:
        raise ModelFileError(
            f"a weights file ends in {', '.join(WEIGHTS_SUFFIXES)}, got {path}; convert"
            " it first"
        )
    if path.suffix.lower() != ".safetensors":
        return Weights(path, _named_tensors(path, _read_pickle(path)), {})
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Weights(path, tensors, file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(
            f"{path} cannot be read as safetensors ({error}); get it again"
        ) from error


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise ModelFileError(
                f"{path} is damaged or holds no plain weights; get it again"
            ) from error
        raise ModelFileError(
            f"{path} holds Python code or objects ({code.group(1)}) besides weights and"
            " was not run; save only the network's state_dict, best as safetensors"
        ) from error
    except _DAMAGE as error:
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise ModelFileError(
            f"{path} cannot be read as weights ({first_line}); get it again"
        ) from error


def _named_tensors(path: Path, content: object) -> dict[str, Tensor]:
    named = content if isinstance(content, Mapping) else {}
    for wrapper in ("state_dict", "model"):
        if isinstance(named.get(wrapper), Mapping):
            named = named[wrapper]
            break
    tensors = {
        str(name).removeprefix("module."): value  # of torch's DataParallel
        for name, value in named.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise ModelFileError(
            f"{path} holds no named tensors; save the network's state_dict"
        )
    return tensors
