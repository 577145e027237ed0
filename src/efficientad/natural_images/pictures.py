"""Natural images for distillation and for the pretraining penalty.

The paper takes both from ImageNet. Here they come from folders and uncompressed tars,
which are read in place. For the penalty alone, they may also be drawn by code.

For the penalty, an image is resized to 512 x 512, made gray with probability 0.3, and
its central 256 x 256 pixels are taken (supplement, Algorithm 1).
"""

import hashlib
import logging
import tarfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple, TypeAlias, final

import numpy as np
from PIL import Image

from efficientad.errors import DatasetError, ImageError
from efficientad.images.listing import (
    find_images,
    unused_files,
    walk,
)
from efficientad.images.rgb import (
    INPUT_SIZE,
    RGBImage,
    decode_image,
    read_image,
    resize_image,
)
from efficientad.images.tars import has_image_suffix, require_end
from efficientad.natural_images.procedural_textures import draw_picture

_RESIZED: Final = 512  # before the central crop, as in the paper
_GRAYSCALE_SHARE: Final = 0.3  # as in the paper
# Crops are cached up to this number (200 MB). Draws are random, so no crop is worth
# more than another, and the first ones stay.
_N_CACHED_CROPS: Final = 1000
# Hashing all of ImageNet would take longer than many trainings.
_N_HASHED_CONTENTS: Final = 100
_MAX_UNREADABLE_SHARE: Final = 0.01

logger = logging.getLogger(__name__)


@final
class DrawnImages:
    """Textures and scenes drawn by code, for the pretraining penalty.

    Deviation: the paper's penalty sees ImageNet. These are for users who have no
    folder of natural images at hand.
    """

    def __init__(self) -> None:
        self.unreadable: set[int] = set()  # stays empty

    def draw(self, rng: np.random.Generator) -> RGBImage:
        """Return a new texture or scene, (256, 256, 3); equal draws for equal `rng`."""
        return _sometimes_gray(draw_picture(rng), rng)

    def description(self) -> str:
        """Return a text for provenance."""
        return "textures and scenes drawn by code"

    def fingerprint(self) -> str:
        """Return a hash of some draws with fixed random numbers."""
        draws = [draw_picture(np.random.default_rng(seed)) for seed in range(8)]
        return hashlib.sha256(np.stack(draws).tobytes()).hexdigest()


class _File(NamedTuple):
    """An image file, or an image in a tar."""

    path: Path
    name: str  # within the folder or tar
    n_bytes: int
    offset: int | None = None  # in the tar, bytes

    def content(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset or 0)
            return file.read(self.n_bytes)

    def read(self) -> RGBImage:
        if self.offset is None:
            return read_image(self.path)
        name = f"{self.name} in {self.path}"
        try:
            content = self.content()
        except OSError as error:
            raise ImageError(
                f"cannot read {name} ({error.strerror or error}); check path and "
                "permissions"
            ) from error
        return decode_image(content, name)


@final
class ImageFiles:
    """Numbered images of folders and tars."""

    def __init__(self, parts: Sequence[tuple[Path, Sequence[_File]]]) -> None:
        self.unreadable: set[int] = set()
        """Numbers of the images that were found damaged so far."""
        self._parts = parts
        self._files = list(chain.from_iterable(files for _, files in parts))
        self._crops: dict[int, RGBImage] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> RGBImage:
        """Read one image in its own size.

        Raises:
            ImageError: If it cannot be read; the message names file and tar.
        """
        return self._files[index].read()

    def read_or_other(self, numbers: Sequence[int], position: int) -> RGBImage:
        """Read an image or, if it is damaged, the nearest undamaged one before it.

        The substitute follows from the files alone, so that a resumed run meets the
        same images. Each damaged image is reported once. Safe in threads. Numbers
        behind the position are only taken if all before it are damaged.

        Raises:
            ImageError: If more than one in a hundred of all images is damaged, or one
                cannot be read for another reason.
        """
        before, behind = range(position, -1, -1), range(position + 1, len(numbers))
        last: ImageError | None = None
        for index in chain(before, behind):
            try:
                return self.read(numbers[index])
            except ImageError as error:
                if not _is_damaged(error):
                    raise
                self._note_unreadable(numbers[index], error)
                last = error
        raise ImageError(
            f"one of {len(numbers)} images must be readable, none is; replace them, "
            f"the last one being: {last}"
        ) from last

    def _note_unreadable(self, number: int, error: ImageError) -> None:
        with self._lock:
            is_new = number not in self.unreadable
            self.unreadable.add(number)
        n, n_allowed = len(self.unreadable), int(len(self) * _MAX_UNREADABLE_SHARE)
        if n > n_allowed:
            raise ImageError(
                f"at most one image in a hundred may be unreadable, {n} of {len(self)} "
                f"are; replace them, the last one being: {error}"
            ) from error
        if is_new:
            logger.warning("left out: %s", error)

    def draw(self, rng: np.random.Generator) -> RGBImage:
        """Return the central crop of a random image, (256, 256, 3), for the penalty.

        Raises:
            ImageError: If more than one image in a hundred cannot be read.
        """
        index = int(rng.integers(len(self)))
        crop = self._crops.get(index)
        if crop is None:
            image = self.read_or_other(range(len(self)), index)
            first = (_RESIZED - INPUT_SIZE) // 2
            inner = slice(first, first + INPUT_SIZE)
            crop = resize_image(image, _RESIZED, _RESIZED)[inner, inner].copy()
            if len(self._crops) < _N_CACHED_CROPS:
                self._crops[index] = crop
        return _sometimes_gray(crop, rng)

    def description(self) -> str:
        """Return names and numbers of images of the folders and tars."""
        return ", ".join(
            f"{path.resolve().name} ({len(files)} images)"
            for path, files in self._parts
        )

    def fingerprint(self) -> str:
        """Return a hash of all names and sizes and of the contents of some images."""
        prints = [_fingerprint(files) for _, files in self._parts]
        if len(prints) == 1:
            return prints[0]
        return hashlib.sha256("".join(prints).encode()).hexdigest()


PretrainingImages: TypeAlias = ImageFiles | DrawnImages
"""Images for the pretraining penalty."""


def open_pretraining_images(path: Path | None) -> PretrainingImages:
    """Open a folder or tar. None: textures and scenes drawn by code."""
    return DrawnImages() if path is None else open_images(path)


def open_images(path: Path | str | Sequence[Path | str]) -> ImageFiles:
    """Open folders, read with all folders and tars below them, or uncompressed tars.

    Raises:
        DatasetError: If a path does not exist, holds no images, or is part of another.
    """
    paths = [Path(one) for one in ([path] if isinstance(path, Path | str) else path)]
    _require_apart(paths)
    parts = [part for one in paths for part in _open_parts(one)]
    if not parts:
        raise DatasetError("at least one folder or tar of images was needed, got none")
    return ImageFiles(parts)


def _require_apart(paths: Sequence[Path]) -> None:
    places = [path.resolve() for path in paths]
    for n, (path, place) in enumerate(zip(paths, places, strict=True)):
        for outer in (*places[:n], *(p for p in places if p != place)):
            if place.is_relative_to(outer):
                raise DatasetError(
                    f"each image must be given once, {path} is part of {outer}, which "
                    "is read with all below it; leave it out"
                )


def _open_parts(path: Path) -> list[tuple[Path, Sequence[_File]]]:
    if path.is_file():
        return [(path, _members(path))]
    if not path.is_dir():
        raise DatasetError(
            f"a folder or tar of images was needed, {path} does not exist; check the"
            " path"
        )
    files = [
        _File(image, image.relative_to(path).as_posix(), image.stat().st_size)
        for image in find_images(path, recursive=True)
        if image.is_file()  # no broken link
    ]
    tars = sorted(
        file
        for file in walk(path)
        if file.suffix.lower() == ".tar" and file.is_file() and file.name[0] != "."
    )
    if not files and not tars:
        raise DatasetError(
            f"a folder of images was needed, {path} holds no images and no tars; give"
            " one with natural photographs"
        )
    if unused := unused_files(path, [*(file.path for file in files), *tars]):
        logger.warning(unused)
    own = [(path, files)] if files else []
    return [*own, *((tar, _members(tar)) for tar in tars)]


def _members(path: Path) -> list[_File]:
    """List the images of a tar; only the headers are read."""
    try:
        with path.open("rb") as file:
            require_end(file)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                files = [
                    _File(path, member.name, member.size, member.offset_data)
                    for member in tar
                    if has_image_suffix(member) and member.isreg()
                ]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DatasetError(
            f"an uncompressed tar of images was needed, {path} cannot be read as one "
            f"({error}); unpack it and give the folder"
        ) from error
    if not files:
        raise DatasetError(
            f"a tar of images was needed, {path} holds none directly; unpack it and "
            "give the folder"
        )
    return files


def _is_damaged(error: ImageError) -> bool:
    """Return whether the image is at fault, not the disk or network it lies on."""
    cause = error.__cause__
    return not (isinstance(cause, OSError) and cause.errno is not None)


def _fingerprint(files: Sequence[_File]) -> str:
    lines = "\n".join(f"{file.name} {file.n_bytes}" for file in files)
    digest = hashlib.sha256(lines.encode(errors="surrogateescape"))
    for file in files[:: -(-len(files) // _N_HASHED_CONTENTS)]:
        digest.update(file.content())
    return digest.hexdigest()


def _sometimes_gray(image: RGBImage, rng: np.random.Generator) -> RGBImage:
    return image.copy() if rng.random() >= _GRAYSCALE_SHARE else in_gray(image)


def in_gray(image: RGBImage) -> RGBImage:
    """Return an image without its colors."""
    return np.array(Image.fromarray(image).convert("L").convert("RGB"))
