"""Source features on disk: computed once for each image, read many times.

On a CPU a deep source network costs as much as a training step of the network that
learns from it. Kept features make the same images cheap in every later step.

The file holds half-precision features, (n, rows, columns, channels), of whole images in
one fixed order, and grows image by image: a stopped build goes on where it was.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efficientad.errors import ModelFileError, StorageError
from efficientad.storage import write_whole
from efficientad.training.source_networks import SourceFeatures

GRID_SIZE = 64
_FILE = "features.f16"
_INDEX = "features.json"


@dataclass(frozen=True)
class FeatureCache:
    """Features of `numbers`, the images in the order of the file."""

    folder: Path
    numbers: tuple[int, ...]
    n_channels: int
    fingerprint: str
    """Names source network, reduction and images; another one is refused."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the whole file."""
        return (len(self.numbers), GRID_SIZE, GRID_SIZE, self.n_channels)

    def open(self) -> NDArray[np.float16]:
        """Open the finished file for reading."""
        return np.memmap(
            self.folder / _FILE, dtype=np.float16, mode="r", shape=self.shape
        )

    def n_done(self) -> int:
        """Count the images whose features are on disk already.

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
        return n_done

    def build(
        self,
        features: SourceFeatures,
        prepared: Callable[[int], Tensor],
        on_progress: Callable[[int], None],
        batch_size: int = 2,
    ) -> None:
        """Compute what is missing.

        Args:
            features: The source network with its reduction.
            prepared: Gives the input of the source network for an image number,
                (3, 512, 512), normalized.
            on_progress: Called with the number of finished images.
            batch_size: Images that go through the source network together.
        """
        n_done = self.n_done()
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
        for start in range(n_done, len(self.numbers), batch_size):
            numbers = self.numbers[start : start + batch_size]
            images = torch.stack([prepared(number) for number in numbers])
            images = images.contiguous(memory_format=torch.channels_last)
            grid = features(images).permute(0, 2, 3, 1)
            file[start : start + len(numbers)] = grid.half().numpy()
            self._note(start + len(numbers))
            on_progress(start + len(numbers))
        file.flush()

    def _reserve(self) -> None:
        """Take the whole space at once: a full disk ends a mapped write in a crash."""
        self.folder.mkdir(parents=True, exist_ok=True)
        n_bytes = math.prod(self.shape) * np.dtype(np.float16).itemsize
        with (self.folder / _FILE).open("ab") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:
                file.truncate(n_bytes)

    def _note(self, n_done: int) -> None:
        text = json.dumps({"fingerprint": self.fingerprint, "n_done": n_done})
        write_whole(self.folder / _INDEX, text.encode())


@runtime_checkable
class FeatureRows(Protocol):
    """Features of many images, (n, rows, columns, channels), or what computes them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Ends with the number of channels."""
        ...

    def __getitem__(self, row: int, /) -> NDArray[Any]: ...


def channel_statistics(
    file: FeatureRows, rows: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each channel over the given images, in float64.

    Each image is centred before its deviations are squared (Welford), so nothing
    cancels.
    """
    n = 0
    mean = np.zeros(file.shape[-1])
    scatter = np.zeros(file.shape[-1])
    for row in rows:
        vectors = file[row].reshape(-1, file.shape[-1]).astype(np.float64)
        own = vectors.mean(0)
        step, share = own - mean, len(vectors) / (n + len(vectors))
        scatter += ((vectors - own) ** 2).sum(0) + step**2 * n * share
        mean += step * share
        n += len(vectors)
    return mean.astype(np.float32), np.sqrt(scatter / n).astype(np.float32)
