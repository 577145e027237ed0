"""Source features on disk: computed once for each image, read many times.

On a CPU a deep source network costs as much as a training step of the network that
learns from it. Kept features make the same images cheap in every later step.

The file holds half-precision features, (n, rows, columns, channels), of whole images in
one fixed order, and grows image by image: a stopped build goes on where it was, a
killed one up to 100 images before.
"""

import json
import math
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from efficientad.errors import ModelFileError, StorageError
from efficientad.storage import write_atomically
from efficientad.training.progress import Progress

_FILE = "features.f16"
_INDEX = "features.json"
_NOTED_EVERY = 100


@dataclass(frozen=True)
class FeatureCache:
    """Features of `numbers`, the images in the order of the file."""

    folder: Path
    numbers: tuple[int, ...]
    n_channels: int
    fingerprint: str
    """Names source network, reduction and images; another one is refused."""
    grid_size: int
    """Rows and columns of one image's features."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the whole file."""
        return (len(self.numbers), self.grid_size, self.grid_size, self.n_channels)

    def open(self) -> NDArray[np.float16]:
        """Open the finished file for reading."""
        return np.memmap(
            self.folder / _FILE, dtype=np.float16, mode="r", shape=self.shape
        )

    def n_done(self) -> int:
        """Count the images whose features are on disk already.

        None are where the file is gone, or shorter than its index says.

        Raises:
            ModelFileError: If the folder holds features of something else.
        """
        index = self.folder / _INDEX
        if not index.exists():
            return 0
        try:
            found = json.loads(index.read_text())
            fingerprint, n_done = str(found["fingerprint"]), int(found["n_done"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelFileError(
                f"{index} is not the index of a feature cache; delete the folder"
            ) from error
        if fingerprint != self.fingerprint:
            raise ModelFileError(
                f"{self.folder} holds features of another source network, reduction or "
                "set of images; delete the folder or choose another one"
            )
        return n_done if self._n_bytes_found() >= self._n_bytes(n_done) else 0

    def build(
        self,
        features_from: Callable[[int], Iterable[Tensor]],
    ) -> None:
        """Compute what is missing.

        Args:
            features_from: Gives the features of all images behind the first so many,
                in their order, some at once: (n, channels, rows, columns).

        Raises:
            ModelFileError: If the folder holds features of something else.
            StorageError: If the features cannot be written.
        """
        n_done, n = self.n_done(), len(self.numbers)
        # First: space that is taken and not filled must not pass for features.
        self._note(n_done)
        try:
            self._reserve()
            file = np.memmap(
                self.folder / _FILE, dtype=np.float16, mode="r+", shape=self.shape
            )
        except OSError as error:
            raise StorageError(
                f"cannot write {self.folder / _FILE} ({error.strerror or error}); "
                "choose a folder with more space"
            ) from error
        task = "keeping the source features"
        n_noted = n_done
        with closing(Progress(n, "image", n_done=n_done, task=task)) as progress:
            try:
                for features in features_from(n_done):
                    grids = features.permute(0, 2, 3, 1).half().cpu().numpy()
                    file[n_done : n_done + len(grids)] = grids
                    n_done += len(grids)
                    if n_done - n_noted >= _NOTED_EVERY:
                        file.flush()
                        self._note(n_done)
                        n_noted = n_done
                    progress.update(n_done)
            finally:
                # Only what is on the disk counts, even if the machine stops at once.
                file.flush()
                self._note(n_done)

    def _reserve(self) -> None:
        """Take the whole space at once: a full disk ends a mapped write in a crash."""
        self.folder.mkdir(parents=True, exist_ok=True)
        n_bytes = self._n_bytes(len(self.numbers))
        with (self.folder / _FILE).open("ab") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:
                file.truncate(n_bytes)

    def _n_bytes(self, n_images: int) -> int:
        return n_images * math.prod(self.shape[1:]) * np.dtype(np.float16).itemsize

    def _n_bytes_found(self) -> int:
        path = self.folder / _FILE
        return path.stat().st_size if path.exists() else 0

    def _note(self, n_done: int) -> None:
        text = json.dumps({"fingerprint": self.fingerprint, "n_done": n_done})
        write_atomically(self.folder / _INDEX, text.encode())
