"""One file of tensors with a JSON description: safetensors, written atomically.

Detectors, teachers and checkpoints are such files. They hold numbers and text only, so
reading one never executes anything.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from efficientad.errors import ModelFileError
from efficientad.storage import atomic_write, require_no_device

Kind = Literal["detector", "teacher", "checkpoint", "basis"]
FORMAT_VERSION = 1
_FORMAT, _VERSION, _CONTENT = "efficientad", "efficientad_version", "content"


def write(
    path: Path, kind: Kind, tensors: Mapping[str, Tensor], content: Mapping[str, Any]
) -> None:
    """Write tensors, on any device, and their description in JSON, atomically.

    Raises:
        StorageError: If the file cannot be written, for example on a full disk.
    """
    require_no_device(path)
    metadata = {
        _FORMAT: kind,
        _VERSION: str(FORMAT_VERSION),
        _CONTENT: json.dumps(content, allow_nan=False),
    }
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
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
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _require_kind(path, kind, metadata)
            content = json.loads(metadata[_CONTENT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path} is not a readable {kind} file: it is truncated, damaged or "
            f"something else ({error}); make it anew"
        ) from error
    return tensors, content


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
