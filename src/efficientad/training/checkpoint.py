"""Checkpoints: written by one run alone, and read only if they are whole."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from efficientad.errors import ModelFileError
from efficientad.model_files import container as tensor_file
from efficientad.model_files.json_text import from_json, is_number, to_json
from efficientad.model_files.tensors import as_arrays, as_tensors


class CheckpointFile:
    """The checkpoint of one run; a file that is there is its own, or was finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = self._found()

    def write(self, save: Callable[[Path], object]) -> None:
        """Write the file by a function of its path.

        Raises:
            ModelFileError: If another run has written it in the meantime.
            StorageError: If it cannot be written.
        """
        if self._found() not in {None, self._own}:
            raise ModelFileError(
                f"{self.path} was written by another run while this one ran; give each "
                "run its own --output"
            )
        save(self.path)
        self._own = self._found()

    def remove(self) -> None:
        """Remove the file, unless another run has written it."""
        if self._found() == self._own:
            self.path.unlink(missing_ok=True)

    def _found(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns


def unfinished(checkpoint: Path) -> ModelFileError:
    """Return the error for a run that would overwrite another one's checkpoint."""
    return ModelFileError(
        f"{checkpoint} is of a run that is not finished; go on with --resume, or "
        "remove it to begin anew"
    )


def save_checkpoint(
    path: Path,
    states: Mapping[str, Mapping[str, Tensor]],
    optimizer: Optimizer,
    content: Mapping[str, Any],
) -> None:
    """Write the tensors of each part, the optimizer's and a JSON object to a file.

    Raises:
        StorageError: If it cannot be written.
    """
    values = optimizer.state_dict()["state"]
    parts = {**states, **{f"optimizer.{index}": values[index] for index in values}}
    tensors = {
        f"{part}.{name}": torch.as_tensor(value)
        for part, state in parts.items()
        for name, value in state.items()
    }
    tensor_file.write(path, "checkpoint", as_arrays(tensors), content)


def open_checkpoint(
    path: Path, identity: Mapping[str, Any], optimizer: Optimizer
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return tensors of each part and content of a checkpoint; restore the optimizer.

    Raises:
        ModelFileError: If it is unusable, or its content is not that of `identity`.
    """
    arrays, content = tensor_file.read(path, "checkpoint")
    expected = from_json(to_json(identity))
    if any(content.get(name) != value for name, value in expected.items()):
        raise ModelFileError(
            f"{path} is a checkpoint of other settings, networks or images; use those "
            "it was made with, or remove it to start anew"
        )
    states = _by_part(as_tensors(arrays))
    values = _by_part(states.pop("optimizer", {}))
    groups = optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with whole_checkpoint(path):
        if values.keys() != {str(index) for index in range(len(parameters))}:
            raise ValueError("the optimizer's state")
        for index, parameter in enumerate(parameters):
            for name, value in values[str(index)].items():
                if value.shape not in {(), parameter.shape}:
                    raise ValueError(f"the optimizer's {name} of {tuple(value.shape)}")
    state = {int(index): values[index] for index in values}
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, own in optimizer.state.items():
        for name, value in own.items():
            # A fused step on CUDA takes no other layout than that of the parameter.
            if value.shape == parameter.shape:
                laid_out = torch.empty_like(parameter, dtype=value.dtype)
                own[name] = laid_out.detach().copy_(value)
    return states, content


@contextmanager
def whole_checkpoint(path: Path) -> Iterator[None]:
    """Raise `ModelFileError` where a block finds entries missing, or wrong."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} does not hold a whole checkpoint (bad entry: {error}); remove it "
            "to begin anew"
        ) from error


def require_like(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` if tensors have other names, types or shapes than expected."""
    stored, own = (
        {(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        for tensors in (found, expected)
    )
    for name, *_ in stored ^ own:
        raise ValueError(name)


def read_progress(content: Mapping[str, Any], n_steps: int) -> tuple[int, float]:
    """Return the steps, of all `n_steps`, and the seconds of a checkpoint.

    Raises:
        KeyError, ValueError: If they are missing, no numbers or out of range.
    """
    steps, seconds = content["steps"], content["seconds"]
    if type(steps) is not int or not 1 <= steps <= n_steps:
        raise ValueError(f"{steps!r} of {n_steps} steps")
    if not is_number(seconds) or seconds < 0:
        raise ValueError(f"{seconds!r} seconds")
    return steps, seconds


def read_indices(content: Mapping[str, Any], name: str) -> list[int]:
    """Return a list of whole numbers from 0 on of a checkpoint, empty if missing.

    Raises:
        TypeError, ValueError: If it is something else.
    """
    found = content.get(name, [])
    if any(type(index) is not int or index < 0 for index in found):
        raise ValueError(name)
    return list(found)


def _by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return parts
