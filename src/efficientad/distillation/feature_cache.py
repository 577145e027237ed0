"""Source features on disk: computed once for each image, read many times.

On a CPU, a deep source network costs as much as a training step of the network that
learns from it. Cached features make the same images cheap in every later step.

The file holds half-precision features, (images, rows, columns, channels), in one fixed
order, and grows image by image. A stopped build resumes at its last image, a killed one
up to 100 images before.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from efficientad.errors import ModelFileError, StorageError
from efficientad.model_files.json_text import from_json
from efficientad.storage import write_atomically

_N_BYTES = np.dtype(np.float16).itemsize
_NOTED_EVERY = 100


@dataclass(frozen=True)
class FeatureCache:
    """A folder with the features of numbered images."""

    folder: Path
    shape: tuple[int, int, int, int]
    """Images, rows, columns and channels."""
    fingerprint: str
    """Name of source network, reduction and images; another one is refused."""

    @property
    def _file(self) -> Path:
        return self.folder / "features.f16"

    @property
    def _index(self) -> Path:
        return self.folder / "features.json"

    def open(self) -> NDArray[np.float16]:
        """Open the finished file for reading."""
        return np.memmap(self._file, dtype=np.float16, mode="r", shape=self.shape)

    def n_done(self) -> int:
        """Return the number of images on disk.

        It is 0 if the file is missing, or shorter than its index says.

        Raises:
            ModelFileError: If the folder holds features of something else.
        """
        if not self._index.exists():
            return 0
        try:
            fingerprint, n_done = _read_index(self._index)
        except (ValueError, KeyError) as error:
            raise ModelFileError(
                f"{self._index} is not the index of a feature cache; delete the folder"
            ) from error
        if fingerprint != self.fingerprint:
            raise ModelFileError(
                f"{self.folder} holds features of another source network, reduction or "
                "set of images; delete the folder or choose another one"
            )
        n_found = self._file.stat().st_size if self._file.exists() else 0
        return n_done if n_found >= n_done * math.prod(self.shape[1:]) * _N_BYTES else 0

    def build(self, batches: Iterable[Tensor]) -> None:
        """Append what is missing.

        Args:
            batches: Features of the images from number `n_done()` on, (batch, rows,
                columns, channels).

        Raises:
            ModelFileError: If the folder holds features of something else.
            StorageError: If the features cannot be written.
        """
        n_done = n_noted = self.n_done()
        # First: reserved space must not pass for features.
        self._note(n_done)
        try:
            # Reserved space: a mapped write to a full disk would end the process.
            n_bytes = math.prod(self.shape) * _N_BYTES
            with self._file.open("ab") as reserved:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(reserved.fileno(), 0, n_bytes)
                else:
                    reserved.truncate(n_bytes)
            file = np.memmap(self._file, dtype=np.float16, mode="r+", shape=self.shape)
        except OSError as error:
            raise StorageError(
                f"cannot write {self._file} ({error.strerror or error}); choose a "
                "folder with more space"
            ) from error
        try:
            for batch in batches:
                file[n_done : n_done + len(batch)] = batch.half().cpu().numpy()
                n_done += len(batch)
                if n_done - n_noted >= _NOTED_EVERY:
                    file.flush()
                    self._note(n_done)
                    n_noted = n_done
        finally:
            # Only images on the disk count, even if the machine stops at once.
            file.flush()
            self._note(n_done)

    def _note(self, n_done: int) -> None:
        text = json.dumps({"fingerprint": self.fingerprint, "n_done": n_done})
        write_atomically(self._index, text.encode())


def _read_index(path: Path) -> tuple[Any, int]:
    """Return fingerprint and number of images on disk, at least 0.

    Raises:
        KeyError, ValueError: If the file is no index.
    """
    found = from_json(path.read_bytes())
    n_done = found["n_done"]
    if type(n_done) is not int or n_done < 0:
        raise ValueError("n_done")
    return found["fingerprint"], n_done
