"""One file of tensors with a JSON description: safetensors, written atomically.

Detectors, teachers and checkpoints are such files. They hold numbers and text only, so
reading one never executes anything. A SHA-256 of tensors and description is stored with
them, so a damaged file is refused. Files of the first versions have none. No torch
here: `model_files.tensors` turns arrays into tensors and back.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from efficientad.errors import ModelFileError
from efficientad.model_files.json_text import from_json, to_json
from efficientad.storage import atomic_write, require_no_device

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by their names in a file."""
Kind = Literal["detector", "teacher", "checkpoint", "basis", "method"]
FORMAT_VERSION = 1
LATEST_VERSION = 2
"""Format of detectors that the first versions would decide otherwise with."""
_FORMAT, _VERSION, _CONTENT = "efficientad", "efficientad_version", "content"
_HASH = "sha256"
_LENGTH_BYTES = 8  # of the header's length, at the start of a safetensors file

logger = logging.getLogger(__name__)


def write(
    path: Path,
    kind: Kind,
    arrays: Arrays,
    content: Mapping[str, Any],
    *,
    version: int = FORMAT_VERSION,
) -> None:
    """Write arrays and their description in JSON, atomically.

    Raises:
        ConfigError: If the description holds something that JSON cannot.
        StorageError: If the file cannot be written, for example on a full disk.
    """
    require_no_device(path)
    metadata = {_FORMAT: kind, _VERSION: str(version), _CONTENT: to_json(content)}
    plain = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    metadata[_HASH] = _hash(metadata[_CONTENT], plain)
    with atomic_write(path) as partial:
        # safetensors' own file has a name that nobody removes after a kill.
        partial.write_bytes(save(plain, metadata))


def read(
    path: Path, kind: Kind, *, is_verified: bool = False
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays, which cannot be written to, and the description of a file.

    A file without a checksum need not be told where the caller compares a hash of it.

    Raises:
        ModelFileError: If the file is missing, truncated, foreign, of another kind or
            of another format version.
    """
    if not path.is_file():
        raise ModelFileError(f"no {kind} file at {path}: give the path of one")
    try:
        # Read at once: a file that changes while it is mapped would kill the process.
        data = path.read_bytes()
        arrays = load(data)
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        header = from_json(data[_LENGTH_BYTES:][:length])
        metadata = header.get("__metadata__", {})
        _require_kind(path, kind, metadata)
        content = from_json(metadata[_CONTENT])
        if _HASH not in metadata and not is_verified:
            logger.info("%s has no checksum: it is of an earlier version", path)
        _require_whole(kind, metadata, arrays)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path} is not a readable {kind} file: it is truncated, damaged or "
            f"something else ({error}); make it anew"
        ) from error
    return arrays, content


def _require_whole(kind: Kind, metadata: Mapping[str, str], arrays: Arrays) -> None:
    """Raise `ValueError` if arrays are not those written, or are no finite floats."""
    recorded = metadata.get(_HASH)
    if recorded is not None and recorded != _hash(metadata[_CONTENT], arrays):
        raise ValueError("its checksum is not the recorded one")
    for name, array in arrays.items():
        # Optimizers and batch normalization count in whole numbers.
        if kind != "checkpoint" and array.dtype.kind != "f":
            raise ValueError(f"{name} has numbers of type {array.dtype}")
        # A ReLU turns NaN into zero, and the score would look normal.
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has numbers that are not finite")


def _hash(content: str, arrays: Arrays) -> str:
    """Return the SHA-256 of a description and of contiguous arrays."""
    digest = hashlib.sha256(content.encode())
    for name, array in sorted(arrays.items()):
        # Types are named as PyTorch does, which wrote the first of these files.
        digest.update(f"{name} torch.{array.dtype.name} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
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
    if version not in {str(FORMAT_VERSION), str(LATEST_VERSION)}:
        is_newer = version.isdigit() and int(version) > LATEST_VERSION
        remedy = "update efficientad" if is_newer else "make the file anew"
        raise ModelFileError(
            f"{path} has file format {version or 'unknown'}, this efficientad reads "
            f"{FORMAT_VERSION} and {LATEST_VERSION}; {remedy}"
        )
