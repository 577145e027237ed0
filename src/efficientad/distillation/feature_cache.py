"""Source features on disk: computed once for each image, read many times.

On a CPU, a deep source network costs as much as a training step of the network that
learns from it. Cached features make the same images cheap in every later step.

The file holds half-precision features, (images, rows, columns, channels), in one fixed
order, and grows image by image. A stopped build resumes at its last image, a killed one
up to 100 images before. The index beside it has a SHA-256, which is checked before the
features are used.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from efficientad.errors import ModelFileError, StorageError
from efficientad.model_files.json_text import from_json
from efficientad.settings import Range, checked
from efficientad.storage import storage_errors, write_atomically

_N_BYTES = np.dtype(np.float16).itemsize
_NOTED_EVERY = 100
_BLOCK_BYTES = 2**20
_COUNT = Annotated[int, Range(0, 2**63)]

logger = logging.getLogger(__name__)


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

    def build(self, batches_from: Callable[[int], Iterable[Tensor]]) -> None:
        """Append what is missing. Features that are damaged are computed again.

        The function gives the features of all images from a number on, in batches.

        Raises:
            ModelFileError: If the folder holds features of something else.
            StorageError: If the features cannot be read or written.
        """
        with storage_errors(self._file):
            n_done, digest = self._whole()
        n_noted = n_done
        batches = batches_from(n_done)
        # First: reserved space must not pass for features.
        self._note(n_done, digest)
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
                features = batch.half().cpu().numpy()
                file[n_done : n_done + len(batch)] = features
                digest.update(np.ascontiguousarray(features).data)
                n_done += len(batch)
                if n_done - n_noted >= _NOTED_EVERY:
                    file.flush()
                    self._note(n_done, digest)
                    n_noted = n_done
        finally:
            # Only images on the disk count, even if the machine stops at once.
            file.flush()
            self._note(n_done, digest)

    def _whole(self) -> tuple[int, "hashlib._Hash"]:
        """Return the number of images on disk and the hash of their features.

        It is 0 if the file is missing, shorter than its index says, or damaged.
        """
        digest = hashlib.sha256()
        if not self._index.exists():
            return 0, digest
        try:
            found = from_json(self._index.read_bytes())
            fingerprint = found["fingerprint"]
            n_done = checked("n_done", found["n_done"], _COUNT)
        except (ValueError, KeyError) as error:
            raise ModelFileError(
                f"{self._index} is not the index of a feature cache; delete the folder"
            ) from error
        if fingerprint != self.fingerprint:
            raise ModelFileError(
                f"{self.folder} holds features of another source network, reduction or "
                "set of images; delete the folder or choose another one"
            )
        n_left = n_done * math.prod(self.shape[1:]) * _N_BYTES
        if self._file.exists():
            with self._file.open("rb") as file:
                while block := file.read(min(n_left, _BLOCK_BYTES)):
                    digest.update(block)
                    n_left -= len(block)
        if not n_left and found.get("sha256") == digest.hexdigest():
            return n_done, digest
        logger.warning("%s is damaged, so it is computed again", self._file)
        return 0, hashlib.sha256()

    def _note(self, n_done: int, digest: "hashlib._Hash") -> None:
        facts = {"fingerprint": self.fingerprint, "n_done": n_done}
        facts["sha256"] = digest.hexdigest()
        write_atomically(self._index, json.dumps(facts).encode())
