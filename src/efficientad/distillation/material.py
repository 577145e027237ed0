"""What a distillation learns from: images and the source features of them.

An image comes with the grid of features that the source network gives at it. The paper
takes both whole; the `quick` preset takes one random window of each. Features are
computed when they are needed, or once and kept on disk.

Reading and cutting need no network, so they are a separate half, `prepare`, that can
run ahead in threads; `finished` does the rest on the device.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

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
from efficientad.method.networks import PATCH_SIZE, PATCH_STRIDE
from efficientad.model_files import container as tensor_file
from efficientad.natural_images.pictures import ImageFiles
from efficientad.storage import file_hash
from efficientad.training.channel_moments import ChannelMoments
from efficientad.training.prefetch import Prefetcher
from efficientad.training.progress import Progress

# The source network sees the image twice as large as the teacher, as in the paper:
# 512 and 256 pixels. So its stage of stride 8 has the teacher's grid of stride 4.
_SOURCE_SCALE = 2
# Channel statistics are taken over at most so many images (the paper's number).
_STATISTICS_IMAGES = 10_000
# The padded grid's cell j looks at the patch around pixel 4j, the unpadded grid's cell
# i around 4i + 16: the first cells whose patch lies inside the image.
_FIRST_INNER_CELL = (PATCH_SIZE - 1) // 2 // PATCH_STRIDE
_PCA_IMAGES = 200
_BASIS = "basis.safetensors"
_CPU_BATCH, _GPU_BATCH = 2, 16
KEPT_PIXELS_BYTES = 4 * 2**30
"""Decoded pictures are kept up to so many, for the steps that draw them again."""

Inputs = Float[Tensor, "batch 3 height width"]
Targets = Float[Tensor, "batch 384 rows columns"]


class Picture(NamedTuple):
    """An image as the teacher sees it, and as the source network does."""

    pixels: RGBImage
    for_source: RGBImage | None
    """Twice as large, out of a larger original. None: enlarge `pixels`."""


class Prepared(NamedTuple):
    """A batch without what only the device can compute."""

    rows: Sequence[int]
    pictures: Sequence[Picture]
    corners: NDArray[np.int64] | None
    """First row and column of cells of each window. None: whole images."""
    kept_features: Tensor | None
    """(batch, rows, columns, channels), half precision, from disk."""


class Material:
    """Numbered images of one distillation, and their normalized source features.

    Rows count the images that were chosen: first the held-out ones, then the others.
    """

    def __init__(
        self, images: ImageFiles, config: DistillConfig, device: torch.device
    ) -> None:
        """Choose the images and open the source network.

        Raises:
            DatasetError: If there are too few images.
            ConfigError: If all that are asked for would be held out.
            ModelFileError: If the source network cannot be used.
        """
        self.images = images
        self.config = config
        self.device = device
        n = len(images) if config.n_images is None else config.n_images
        if n > len(images) or len(images) <= config.n_held_out:
            raise DatasetError(
                f"needed more than {config.n_held_out} images (n_held_out) and at "
                f"least {n} (n_images), found {len(images)}; give more images"
            )
        if n <= config.n_held_out:
            raise ConfigError(
                f"n_images must be above n_held_out ({config.n_held_out}), got {n}; "
                "raise the one, or lower the other"
            )
        order = np.random.default_rng(config.seed).permutation(len(images))
        self.numbers = tuple(int(i) for i in order[:n])
        self._held_out_numbers = self.numbers[: config.n_held_out]
        self._other_numbers = self.numbers[config.n_held_out :]
        self.rows = range(config.n_held_out, n)
        self.held_out_rows = range(config.n_held_out)
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
        self._cache: NDArray[np.float16] | None = None
        self._pictures: dict[int, Picture] = {}
        self._n_kept_bytes = 0
        self._statistics: tuple[Tensor, Tensor] | None = None

    @property
    def batch_size(self) -> int:
        """Images that go through the source network together."""
        return _GPU_BATCH if self.device.type == "cuda" else _CPU_BATCH

    def get_ready(self) -> None:
        """Fit the reduction, keep features, measure the channels: what is missing.

        Raises:
            ImageError: If more than one image in a hundred cannot be read.
            ModelFileError: If the cache holds other features.
            StorageError: If the cache cannot be written.
        """
        if self.config.reduction == "pca":
            self._find_basis()
        if self.config.feature_cache is not None:
            self._cache = self._filled_cache()
        if self._statistics is None:
            self._statistics = self._measured_statistics()

    def state(self) -> dict[str, Tensor]:
        """Give what `get_ready` found out, for a checkpoint."""
        assert self._statistics is not None
        state = {"mean": self._statistics[0], "std": self._statistics[1]}
        if self.features.matrix is not None and self.features.offset is not None:
            state |= {"matrix": self.features.matrix, "offset": self.features.offset}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._statistics = (
            state["mean"].to(self.device),
            state["std"].to(self.device),
        )
        self.features.matrix = state["matrix"].to(self.device)
        self.features.offset = state["offset"].to(self.device)

    def prepare(
        self, rows: Sequence[int], rng: np.random.Generator, window_cells: int | None
    ) -> Prepared:
        """Read and draw a batch; safe in threads.

        Args:
            rows: The images.
            rng: Source of the windows, and of the grayscale draws where features are
                not kept.
            window_cells: Descriptors along the side of a window. None: whole images.
        """
        corners = None
        if window_cells is not None:
            n_places = self.n_inner_cells - window_cells + 1
            corners = rng.integers(0, n_places, (len(rows), 2))
        if self._cache is None and rows[0] not in self.held_out_rows:
            is_gray = rng.random(len(rows)) < self.config.grayscale_share
            pictures = [
                self._picture(row, is_gray=bool(gray))
                for row, gray in zip(rows, is_gray, strict=True)
            ]
        else:
            pictures = [self._fixed(row) for row in rows]
        kept = None
        if self._cache is not None:
            cells = [self._cells(i, corners, window_cells) for i in range(len(rows))]
            grids = [
                self._cache[row, c[0], c[1]] for row, c in zip(rows, cells, strict=True)
            ]
            kept = torch.from_numpy(np.stack(grids))
        return Prepared(tuple(rows), pictures, corners, kept)

    def finished(
        self, prepared: Prepared, window_cells: int | None
    ) -> tuple[Inputs, Targets]:
        """Give inputs and normalized targets, on the device."""
        assert self._statistics is not None
        images = self._inputs([picture.pixels for picture in prepared.pictures])
        if prepared.kept_features is not None:
            kept = prepared.kept_features.to(self.device).float()
            targets = kept.permute(0, 3, 1, 2)
        else:
            grids = self._computed(prepared.pictures)
            targets = torch.stack(
                [
                    grid[(slice(None), *self._cells(i, prepared.corners, window_cells))]
                    for i, grid in enumerate(grids)
                ]
            )
        mean, std = self._statistics
        targets = (targets - mean) / std
        if prepared.corners is None or window_cells is None:
            return images, targets
        side = (window_cells - 1) * PATCH_STRIDE + PATCH_SIZE
        windows = [
            image[:, top : top + side, left : left + side]
            for image, (top, left) in zip(
                images, PATCH_STRIDE * prepared.corners, strict=True
            )
        ]
        return torch.stack(windows), targets

    def _cells(
        self, index: int, corners: NDArray[np.int64] | None, window_cells: int | None
    ) -> tuple[slice, slice]:
        if corners is None or window_cells is None:
            return slice(0, self.grid_size), slice(0, self.grid_size)
        row, column = (int(c) + _FIRST_INNER_CELL for c in corners[index])
        return slice(row, row + window_cells), slice(column, column + window_cells)

    def _fixed(self, row: int) -> Picture:
        """Give an image with the grayscale draw that it keeps."""
        draw = np.random.default_rng((self.config.seed, self.numbers[row])).random()
        return self._picture(row, is_gray=draw < self.config.grayscale_share)

    def _picture(self, row: int, *, is_gray: bool) -> Picture:
        picture = self._pictures.get(row)
        if picture is None:
            picture = self._read(row)
            n_bytes = sum(part.nbytes for part in picture if part is not None)
            if self._n_kept_bytes + n_bytes <= KEPT_PIXELS_BYTES:
                self._n_kept_bytes += n_bytes
                self._pictures[row] = picture
        if not is_gray:
            return picture
        large = picture.for_source
        return Picture(_gray(picture.pixels), None if large is None else _gray(large))

    def _read(self, row: int) -> Picture:
        size = self.config.image_size
        # No training image may stand for one that is held out, nor the reverse.
        n_held_out = len(self.held_out_rows)
        if row < n_held_out:
            image = self.images.read_or_other(self._held_out_numbers, row)
        else:
            image = self.images.read_or_other(self._other_numbers, row - n_held_out)
        for_source = None
        if max(image.shape[:2]) > size and self._cache is None:
            large = _SOURCE_SCALE * size
            for_source = resize_image(image, large, large)
        return Picture(resize_image(image, size, size), for_source)

    def _inputs(self, pixels: Sequence[RGBImage]) -> Inputs:
        return normalize_images(torch.from_numpy(np.stack(pixels)).to(self.device))

    def _source_input(self, pictures: Sequence[Picture]) -> Inputs:
        size = _SOURCE_SCALE * self.config.image_size
        inputs = []
        for pixels, for_source in pictures:
            image = self._inputs([pixels if for_source is None else for_source])
            if for_source is None:
                image = functional.interpolate(image, (size, size), mode="bilinear")
            inputs.append(image)
        return torch.cat(inputs).contiguous(memory_format=torch.channels_last)

    def _computed(self, pictures: Sequence[Picture]) -> Tensor:
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.mixed_precision
        ):
            features: Tensor = self.features(self._source_input(pictures))
        return features.float()

    @cached_property
    def _kept_features(self) -> FeatureCache:
        assert self.config.feature_cache is not None
        return FeatureCache(
            self.config.feature_cache,
            self.numbers,
            self.features.n_channels,
            self._fingerprint(),
            self.grid_size,
        )

    def _filled_cache(self) -> NDArray[np.float16]:
        cache = self._kept_features
        all_rows = range(len(self.numbers))
        cache.build(
            lambda n_done: map(self._computed, self._pictures_of(all_rows[n_done:]))
        )
        # What only the source network needed.
        self._pictures = {
            row: picture._replace(for_source=None)
            for row, picture in self._pictures.items()
        }
        self._n_kept_bytes = sum(p.pixels.nbytes for p in self._pictures.values())
        return cache.open()

    def _fingerprint(self) -> str:
        c = self.config
        fingerprint = (
            f"{self.source_hash} {c.reduction} {c.seed} {c.grayscale_share} "
            f"{self.images.fingerprint()}"
        )
        if c.reduction == "pca":
            rows = self._basis_rows()
            fingerprint += f" {rows.start} {rows.stop}"
        if c.image_size != DistillConfig(source=c.source).image_size:
            fingerprint += f" {c.image_size}"
        if c.mixed_precision:
            fingerprint += " bfloat16"
        if c.stride_in_first_convolution is not None:
            fingerprint += f" stride in first: {c.stride_in_first_convolution}"
        return fingerprint

    def _basis_rows(self) -> range:
        """Give what the principal components are fitted on: the last images."""
        return self.rows[-_PCA_IMAGES:]

    def _find_basis(self) -> None:
        """Fit principal components, or take those that kept features are made with.

        Fitted again, on another machine, they may have other signs.
        """
        folder, features = self.config.feature_cache, self.features
        if folder is None:
            if features.matrix is None:
                self._fit_reduction()
            return
        path = folder / _BASIS
        has_features = self._kept_features.n_done() > 0
        if has_features and path.exists():
            kept, _ = tensor_file.read(path, "basis")
            given = features.matrix
            if given is not None and not torch.equal(given.cpu(), kept["matrix"]):
                raise ModelFileError(
                    f"{folder} holds principal components of another basis than the "
                    "checkpoint; give the folder it was made with, or another one"
                )
            features.matrix = kept["matrix"].to(self.device)
            features.offset = kept["offset"].to(self.device)
            return
        if features.matrix is None:
            if has_features:
                raise ModelFileError(
                    f"{folder} holds principal components without their basis; delete "
                    "the folder or choose another one"
                )
            self._fit_reduction()
        assert features.matrix is not None
        assert features.offset is not None
        basis = {"matrix": features.matrix, "offset": features.offset}
        tensor_file.write(path, "basis", basis, {})

    def _fit_reduction(self) -> None:
        rows = self._basis_rows()
        task = "fitting principal components of the source features"
        with closing(Progress(len(rows), "image", task=task)) as progress:
            self.features.fit(self._source_inputs(rows, progress))

    def _source_inputs(self, rows: range, progress: Progress) -> Iterator[Inputs]:
        for n_done, pictures in enumerate(self._pictures_of(rows, 1), start=1):
            yield self._source_input(pictures)
            progress.update(n_done)

    def _pictures_of(
        self, rows: range, batch_size: int | None = None
    ) -> Iterator[list[Picture]]:
        """Read images batch by batch, in threads ahead of what becomes of them."""
        n = self.batch_size if batch_size is None else batch_size
        batches = [rows[start : start + n] for start in range(0, len(rows), n)]

        def read(number: int) -> list[Picture]:
            return [self._fixed(row) for row in batches[number]]

        with closing(Prefetcher(read, 0, len(batches))) as ahead:
            for _ in batches:
                yield ahead.take()

    def _measured_statistics(self) -> tuple[Tensor, Tensor]:
        moments = ChannelMoments()
        rows = self.rows[:_STATISTICS_IMAGES]
        task = "measuring the channels of the source features"
        with closing(Progress(len(rows), "image", task=task)) as progress:
            n_done = 0
            for grids in self._feature_grids(rows):
                moments.add(grids.flatten(0, 2))
                n_done += len(grids)
                progress.update(n_done)
        shape = (1, -1, 1, 1)
        mean, std = (v.to(self.device).view(shape) for v in moments.mean_and_std())
        return mean, std.clamp(min=1e-6)

    def _feature_grids(self, rows: range) -> Iterator[Tensor]:
        """Give features batch by batch, (images, rows, columns, channels)."""
        if self._cache is None:
            for pictures in self._pictures_of(rows):
                yield self._computed(pictures).movedim(1, -1)
            return
        for start in range(rows.start, rows.stop, self.batch_size):
            kept = self._cache[start : min(start + self.batch_size, rows.stop)]
            yield torch.from_numpy(kept.copy())


def _gray(image: RGBImage) -> RGBImage:
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
