"""Images of a distillation and their normalized source features.

An image comes with the grid of features that the source network computes from it. The
paper takes both whole; the `quick` preset takes one random window of each. Features are
computed when they are needed, or once and cached on disk.

Reading and cutting need no network and run in threads (`prepare`); `finish` does the
rest on the device.
"""

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from efficientad.cores import usable_cores
from efficientad.distillation.config import DistillConfig
from efficientad.distillation.feature_cache import FeatureCache
from efficientad.distillation.source_networks import (
    SourceFeatures,
    find_source_network,
    open_source_network,
)
from efficientad.errors import ConfigError, DatasetError, ModelFileError
from efficientad.images.rgb import RGBImage, resize_image
from efficientad.method.inputs import normalize_images
from efficientad.method.sizes import PATCH_SIZE, PATCH_STRIDE
from efficientad.model_files import container as tensor_file
from efficientad.model_files.tensors import as_arrays, as_tensors
from efficientad.natural_images.pictures import ImageFiles, in_gray
from efficientad.progress import with_progress
from efficientad.storage import file_hash
from efficientad.threads import in_order
from efficientad.training.channel_statistics import ChannelMoments

# The source network sees the image twice as large as the teacher, as in the paper:
# 512 and 256 pixels. So its stage of stride 8 has the teacher's grid of stride 4.
_SOURCE_SCALE = 2
_STATISTICS_IMAGES = 10_000  # at most, for the channel statistics; the paper's number
# Cell j of the padded grid looks at the patch around pixel 4j, cell i of the unpadded
# grid around 4i + 16: the first cell whose patch lies inside the image.
_FIRST_INNER_CELL = (PATCH_SIZE - 1) // 2 // PATCH_STRIDE
_PCA_IMAGES = 200
_BASIS = "basis.safetensors"
_CPU_BATCH, _GPU_BATCH = 2, 16
_MIN_PREFETCHED, _MAX_THREADS = 4, 16
CACHED_PIXELS_BYTES = 4 * 2**30
"""Memory for decoded images, which later steps draw again."""

Inputs = Float[Tensor, "batch 3 height width"]
Targets = Float[Tensor, "batch 384 rows columns"]
Grids = Float[Tensor, "batch rows columns channels"]
Window = tuple[slice, slice]
S = TypeVar("S")
T = TypeVar("T")


class Picture(NamedTuple):
    """An image as the teacher sees it, and as the source network does."""

    pixels: RGBImage
    for_source: RGBImage | None
    """Twice as large, from a larger original. None: enlarge `pixels`."""


class Prepared(NamedTuple):
    """A batch without what only the device can compute."""

    inputs: NDArray[np.uint8]
    """Windows of the images, (batch, height, width, 3)."""
    features: Tensor | None
    """Cached features of the windows, (batch, rows, columns, channels)."""
    pictures: Sequence[Picture]
    cells: Sequence[Window]
    """Windows of the feature grids."""


class DistillationData:
    """Chosen images, counted by rows: first the held-out ones, then the others.

    Raises:
        DatasetError: If there are too few images.
        ConfigError: If no images would be left for training.
        ModelFileError: If the source network cannot be used.
    """

    def __init__(
        self, images: ImageFiles, config: DistillConfig, device: torch.device
    ) -> None:
        self.images, self.config, self.device = images, config, device
        n_held_out = config.n_held_out
        n = len(images) if config.n_images is None else config.n_images
        if n > len(images) or len(images) <= n_held_out:
            raise DatasetError(
                f"needed more than {n_held_out} images (n_held_out) and at least {n} "
                f"(n_images), found {len(images)}; give more images"
            )
        if n <= n_held_out:
            raise ConfigError(
                f"n_images must be above n_held_out ({n_held_out}), got {n}; raise the "
                "one, or lower the other"
            )
        order = np.random.default_rng(config.seed).permutation(len(images))
        self.numbers: list[int] = order[:n].tolist()
        self.held_out_rows, self.rows = range(n_held_out), range(n_held_out, n)
        self.grid_size = config.image_size // PATCH_STRIDE
        self.n_inner_cells = (config.image_size - PATCH_SIZE) // PATCH_STRIDE + 1
        self.source_hash = file_hash(find_source_network(config.source))
        network = open_source_network(
            config.source,
            stride_in_first_convolution=config.stride_in_first_convolution,
        ).eval()
        self.features = SourceFeatures(network, config.reduction, seed=config.seed)
        self.features.to(device)
        if device.type == "cuda":
            self.features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._cached: NDArray[np.float16] | None = None
        self._pictures: dict[int, Picture] = {}
        self._statistics: tuple[Tensor, Tensor] | None = None

    def get_ready(self) -> None:
        """Fit the reduction, fill the cache and measure the channels, where missing.

        Raises:
            ImageError: If more than one image in a hundred cannot be read.
            ModelFileError: If the cache holds other features.
            StorageError: If the cache cannot be written.
        """
        if self.features.matrix is None:
            self._find_basis()
        if self.config.feature_cache is not None:
            self._fill_cache(self.config.feature_cache)
        if self._statistics is None:
            self._measure_channels()

    def state(self) -> dict[str, Tensor]:
        """Return what `get_ready` measured, for a checkpoint."""
        assert self._statistics is not None
        mean, std = self._statistics
        return {"mean": mean, "std": std, **self._reduction()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned.

        Raises:
            KeyError, ValueError: If it is incomplete, or of other features.
        """
        self._set_reduction(state)
        mean, std = state["mean"].to(self.device), state["std"].to(self.device)
        if not mean.shape == std.shape == (1, self.features.n_channels, 1, 1):
            raise ValueError(f"mean of {tuple(mean.shape)}")
        if not (std > 0).all():
            raise ValueError("std is not positive")
        self._statistics = mean, std

    def prepare(
        self, rows: Sequence[int], rng: np.random.Generator, window_cells: int | None
    ) -> Prepared:
        """Read and draw a batch, all images held out or none; safe in threads.

        Windows are drawn and, without a feature cache, which images are gray. Without
        `window_cells`, the descriptors along the side of a window, images are whole.
        """
        whole = slice(None), slice(None)
        windows, cells = [whole] * len(rows), [whole] * len(rows)
        if window_cells is not None:
            n_places = self.n_inner_cells - window_cells + 1
            corners = rng.integers(0, n_places, (len(rows), 2))
            side = (window_cells - 1) * PATCH_STRIDE + PATCH_SIZE
            windows = _windows(PATCH_STRIDE * corners, side)
            cells = _windows(corners + _FIRST_INNER_CELL, window_cells)
        if self._cached is None and rows[0] not in self.held_out_rows:
            is_gray = rng.random(len(rows)) < self.config.grayscale_share
            drawn = zip(rows, is_gray.tolist(), strict=True)
            pictures = [self._picture(row, is_gray=gray) for row, gray in drawn]
        else:
            pictures = [self._fixed_picture(row) for row in rows]
        features = None
        if self._cached is not None:
            grids = [
                self._cached[row][own] for row, own in zip(rows, cells, strict=True)
            ]
            features = torch.from_numpy(np.stack(grids))
        inputs = [p.pixels[own] for p, own in zip(pictures, windows, strict=True)]
        return Prepared(np.stack(inputs), features, pictures, cells)

    def finish(self, prepared: Prepared) -> tuple[Inputs, Targets]:
        """Return inputs and normalized targets on the device."""
        assert self._statistics is not None
        if prepared.features is None:
            grids = zip(self._compute(prepared.pictures), prepared.cells, strict=True)
            features = torch.stack([grid[own] for grid, own in grids])
        else:
            features = prepared.features.to(self.device).float()
        mean, std = self._statistics
        targets = (features.permute(0, 3, 1, 2) - mean) / std
        return self._inputs(prepared.inputs), targets

    def _fixed_picture(self, row: int) -> Picture:
        """Return an image with a grayscale draw that is always the same."""
        draw = np.random.default_rng((self.config.seed, self.numbers[row])).random()
        return self._picture(row, is_gray=draw < self.config.grayscale_share)

    def _picture(self, row: int, *, is_gray: bool) -> Picture:
        picture = self._pictures.get(row) or self._read(row)
        n_bytes = sum(part.nbytes for part in picture if part is not None)
        if n_bytes * len(self._pictures) < CACHED_PIXELS_BYTES:
            self._pictures[row] = picture
        if not is_gray:
            return picture
        pixels, large = picture
        return Picture(in_gray(pixels), None if large is None else in_gray(large))

    def _read(self, row: int) -> Picture:
        size = self.config.image_size
        # A training image must not replace a held-out one, nor the reverse.
        own = self.held_out_rows if row in self.held_out_rows else self.rows
        numbers = self.numbers[own.start : own.stop]
        image = self.images.read_or_other(numbers, row - own.start)
        for_source = None
        if max(image.shape[:2]) > size and self._cached is None:
            large = _SOURCE_SCALE * size
            for_source = resize_image(image, large, large)
        return Picture(resize_image(image, size, size), for_source)

    def _inputs(self, pixels: NDArray[np.uint8]) -> Inputs:
        return normalize_images(torch.from_numpy(pixels).to(self.device))

    def _source_inputs(self, pictures: Sequence[Picture]) -> Inputs:
        size = _SOURCE_SCALE * self.config.image_size
        inputs = []
        for pixels, for_source in pictures:
            image = self._inputs((pixels if for_source is None else for_source)[None])
            if for_source is None:
                image = functional.interpolate(image, (size, size), mode="bilinear")
            inputs.append(image)
        return torch.cat(inputs).contiguous(memory_format=torch.channels_last)

    def _compute(self, pictures: Sequence[Picture]) -> Grids:
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.mixed_precision
        ):
            features: Tensor = self.features(self._source_inputs(pictures))
        return features.float().movedim(1, -1)

    def _find_basis(self) -> None:
        """Fit principal components on the last images, or read those of the cache.

        Fitted again, on another machine, they may have other signs.
        """
        folder = self.config.feature_cache
        if folder is not None and (folder / _BASIS).exists():
            arrays, _ = tensor_file.read(folder / _BASIS, "basis")
            try:
                self._set_reduction(as_tensors(arrays))
            except (KeyError, ValueError) as error:
                raise ModelFileError(
                    f"{folder / _BASIS} does not hold the principal components of this "
                    f"source network (bad entry: {error}); delete the folder"
                ) from error
        else:
            task = "fitting principal components of the source features"
            batches = self._batches(self.rows[-_PCA_IMAGES:], task)
            self.features.fit(map(self._source_inputs, batches))

    def _set_reduction(self, tensors: Mapping[str, Tensor]) -> None:
        matrix, offset = tensors["matrix"], tensors["offset"]
        n_joined = sum(self.features.source_network.stage_channels)
        shape = self.features.n_channels, n_joined
        if matrix.shape != shape or offset.shape != shape[:1]:
            raise ValueError(f"matrix of {tuple(matrix.shape)}, needed {shape}")
        self.features.matrix = matrix.to(self.device)
        self.features.offset = offset.to(self.device)

    def _reduction(self) -> dict[str, Tensor]:
        assert self.features.matrix is not None
        assert self.features.offset is not None
        return {"matrix": self.features.matrix, "offset": self.features.offset}

    def _fill_cache(self, folder: Path) -> None:
        n, side = len(self.numbers), self.grid_size
        shape = n, side, side, self.features.n_channels
        cache = FeatureCache(folder, shape, self._fingerprint())
        basis = folder / _BASIS

        def features_from(n_done: int) -> Iterator[Tensor]:
            if self.config.reduction == "pca" and not basis.exists():
                tensor_file.write(basis, "basis", as_arrays(self._reduction()), {})
            batches = self._batches(range(n_done, n), "caching the source features")
            return map(self._compute, batches)

        cache.build(features_from)
        self._pictures.clear()  # the large ones are not needed any more
        self._cached = cache.open()

    def _fingerprint(self) -> str:
        """Return a text that names source network, reduction and images."""
        c = self.config
        parts = [f"{self.source_hash} {c.reduction} {c.seed} {c.grayscale_share}"]
        parts.append(self.images.fingerprint())
        if c.reduction == "pca":
            matrix = self._reduction()["matrix"].cpu().numpy()
            parts.append(hashlib.sha256(matrix.tobytes()).hexdigest())
        if c.image_size != DistillConfig(source=c.source).image_size:
            parts.append(f"{c.image_size}")
        if c.mixed_precision:
            parts.append("bfloat16")
        if c.stride_in_first_convolution is not None:
            parts.append(f"stride in first: {c.stride_in_first_convolution}")
        return " ".join(parts)

    def _measure_channels(self) -> None:
        rows = self.rows[:_STATISTICS_IMAGES]
        task = "measuring the channels of the source features"
        if self._cached is None:
            grids = map(self._compute, self._batches(rows, task))
        else:
            parts = (self._cached[part.start : part.stop] for part in self._parts(rows))
            grids = map(torch.tensor, with_progress(parts, len(rows), task))
        moments = ChannelMoments()
        for batch in grids:
            moments.add(batch.flatten(0, 2))
        mean, std = (
            v.to(self.device).view(1, -1, 1, 1) for v in moments.mean_and_std()
        )
        self._statistics = mean, std.clamp(min=1e-6)

    def _batches(self, rows: range, task: str) -> Iterator[list[Picture]]:
        """Read images batch by batch, with prefetch and progress."""

        def read(part: range) -> list[Picture]:
            return [self._fixed_picture(row) for row in part]

        with closing(prefetched(read, self._parts(rows))) as batches:
            yield from with_progress(batches, len(rows), task)

    def _parts(self, rows: range) -> list[range]:
        """Return the rows that go through the source network together."""
        n = _GPU_BATCH if self.device.type == "cuda" else _CPU_BATCH
        return [rows[start : start + n] for start in range(0, len(rows), n)]


def prefetched(
    function: Callable[[S], T], arguments: Iterable[S]
) -> Generator[T, None, None]:
    """Yield the results of a function in order, each computed early in a thread."""
    n = min(_MAX_THREADS, usable_cores())
    n_waiting = max(0, _MIN_PREFETCHED - n)
    return in_order(function, arguments, n_streams=n, n_waiting=n_waiting)


def _windows(corners: NDArray[np.int64], side: int) -> list[Window]:
    """Return squares with these first rows and columns."""
    return [(slice(r, r + side), slice(c, c + side)) for r, c in corners.tolist()]
