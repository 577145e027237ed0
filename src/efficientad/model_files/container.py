"""One file of tensors with a JSON description: safetensors, written atomically.

Detectors, teachers and checkpoints are such files. They hold numbers and text only, so
reading one never executes anything. A SHA-256 of tensors and description is stored with
them, so a damaged file is refused. Files of the first versions have none.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from efficientad.errors import ModelFileError
from efficientad.model_files.json_text import from_json, to_json
from efficientad.storage import atomic_write, require_no_device

Kind = Literal["detector", "teacher", "checkpoint", "basis"]
FORMAT_VERSION = 1
_FORMAT, _VERSION, _CONTENT = "efficientad", "efficientad_version", "content"
_HASH = "sha256"
_LENGTH_BYTES = 8  # of the header's length, at the start of a safetensors file

logger = logging.getLogger(__name__)


def write(
    path: Path, kind: Kind, tensors: Mapping[str, Tensor], content: Mapping[str, Any]
) -> None:
    """Write tensors, on any device, and their description in JSON, atomically.

    Raises:
        ConfigError: If the description holds something that JSON cannot.
        StorageError: If the file cannot be written, for example on a full disk.
    """
    require_no_device(path)
    metadata = {
        _FORMAT: kind,
        _VERSION: str(FORMAT_VERSION),
        _CONTENT: to_json(content),
    }
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata[_HASH] = _hash(metadata[_CONTENT], plain)
    with atomic_write(path) as partial:
        partial.touch()
        usual_mode = partial.stat().st_mode
        try:
            save_file(plain, partial, metadata)
        except SafetensorError as error:  # its only reason is the disk
            raise OSError(str(error)) from error
        partial.chmod(usual_mode)  # safetensors' files are for their owner alone


def read(path: Path, kind: Kind) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the description of a file.

    Raises:
        ModelFileError: If the file is missing, truncated, foreign, of another kind or
            of another format version.
    """
    if not path.is_file():
        raise ModelFileError(f"no {kind} file at {path}: give the path of one")
    try:
        # Read at once: a file that changes while it is mapped would kill the process.
        data = path.read_bytes()
        tensors = load(data)
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        header = from_json(data[_LENGTH_BYTES:][:length])
        metadata = header.get("__metadata__", {})
        _require_kind(path, kind, metadata)
        content = from_json(metadata[_CONTENT])
        if _HASH not in metadata:
            logger.info("%s has no checksum: it is of an earlier version", path)
        _require_whole(kind, metadata, tensors)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path} is not a readable {kind} file: it is truncated, damaged or "
            f"something else ({error}); make it anew"
        ) from error
    return tensors, content


def _require_whole(
    kind: Kind, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> None:
    """Raise `ValueError` if tensors are not those written, or are no finite floats."""
    recorded = metadata.get(_HASH)
    if recorded is not None and recorded != _hash(metadata[_CONTENT], tensors):
        raise ValueError("its checksum is not the recorded one")
    for name, tensor in tensors.items():
        # Optimizers and batch normalization count in whole numbers.
        if kind != "checkpoint" and not tensor.is_floating_point():
            raise ValueError(f"{name} has numbers of type {tensor.dtype}")
        # A ReLU turns NaN into zero, and the score would look normal.
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has numbers that are not finite")


def _hash(content: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a description and of contiguous tensors on the CPU."""
    digest = hashlib.sha256(content.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_kind(path: Path, kind: Kind, metadata: Mapping[str, str]) -> None:
    found = metadata.get(_FORMAT)
    if found is None:
        raise ModelFileError(
            f"{path} is a safetensors file of another program; needed a {kind} file of "
            "efficientad"
        )
    if found != kind:
        raise ModelFileError(f"{path} is a {found} file; needed a {kind} file")
    version = metadata.get(_VERSION, "")
    if version != str(FORMAT_VERSION):
        is_newer = version.isdigit() and int(version) > FORMAT_VERSION
        remedy = "update efficientad" if is_newer else "make the file anew"
        raise ModelFileError(
            f"{path} has file format {version or 'unknown'}, this efficientad reads "
            f"{FORMAT_VERSION}; {remedy}"
        )
