"""Natural images for distillation and for the pretraining penalty.

The paper takes both from ImageNet. Here they come from a folder, from uncompressed tars
(read in place, never unpacked), from several of these together, or, where the user
gives none, from pictures that installed packages carry and from textures drawn by code.

For the penalty, an image is resized to 512 x 512, made gray with probability 0.3, and
its central 256 x 256 pixels are taken (supplement, Algorithm 1).
"""

import hashlib
import logging
import tarfile
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Final, final

import numpy as np
from PIL import Image, ImageDraw

from efficientad.errors import DatasetError, ImageError
from efficientad.images.listing import IMAGE_SUFFIXES, find_images
from efficientad.images.rgb import (
    INPUT_SIZE,
    RGBImage,
    decode_image,
    read_image,
    resize_image,
)
from efficientad.natural_images.embedded_pictures import (
    find_embedded_pictures,
    pyramid,
    vary_picture,
)
from efficientad.natural_images.procedural_textures import draw_shape, draw_texture

_RESIZED: Final = 512  # the paper's, before the central crop
_GRAYSCALE_SHARE: Final = 0.3  # the paper's
# Crops are kept up to so many (200 MB). Draws are random, so none is worth more than
# another and the first ones stay.
_N_KEPT_CROPS: Final = 1000

# Hashing all of ImageNet would take longer than many a training.
_N_HASHED_CONTENTS: Final = 100

_MAX_UNREADABLE_SHARE: Final = 0.01

_TEXTURE_SHARE: Final = 0.3
_COLLAGE_SHARE: Final = 0.15

logger = logging.getLogger(__name__)


class PretrainingImages(ABC):
    """Numbered natural images, and random draws from them for the penalty."""

    def __init__(self) -> None:
        self._crops: dict[int, RGBImage] = {}
        self.unreadable: set[int] = set()
        """Images that `read_or_other` found damaged so far."""
        self._noting = Lock()

    @abstractmethod
    def __len__(self) -> int:
        """Number of images that can be read."""

    @abstractmethod
    def read(self, index: int) -> RGBImage:
        """Read one image in its own size.

        Raises:
            ImageError: If it cannot be read.
        """

    def read_or_other(self, numbers: Sequence[int], position: int) -> RGBImage:
        """Read an image or, where it is damaged, the nearest before it that is not.

        One broken picture among thousands must not end a run of hours, and a run that
        goes on later must meet the same ones: which stands for it follows from the
        files alone. It is told once. Safe in threads.

        Args:
            numbers: Of the images that may stand for each other; those behind are
                taken only where all before are damaged.
            position: In `numbers`, of the one wanted.

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
        with self._noting:
            is_new = number not in self.unreadable
            self.unreadable.add(number)
        n, n_allowed = len(self.unreadable), int(len(self) * _MAX_UNREADABLE_SHARE)
        if not n_allowed:
            raise error
        if n > n_allowed:
            raise ImageError(
                f"at most one image in a hundred may be unreadable, {n} of {len(self)} "
                f"are; replace them, the last one being: {error}"
            ) from error
        if is_new:
            logger.warning("left out: %s", error)

    @abstractmethod
    def description(self) -> str:
        """What these images are, without the folders they lie in; for provenance."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all names and sizes and of the contents of some images.

        It tells whether anything computed from these images still holds.
        """

    def draw(self, rng: np.random.Generator) -> RGBImage:
        """Draw the crop of a random image, (256, 256, 3), as the penalty takes it.

        Args:
            rng: Where the random numbers come from; the same ones give the same image.

        Raises:
            ImageError: If more than one image in a hundred cannot be read.
        """
        index = int(rng.integers(len(self)))
        crop = self._crops.get(index)
        if crop is None:
            crop = _central_crop(self.read_or_other(range(len(self)), index))
            if len(self._crops) < _N_KEPT_CROPS:
                self._crops[index] = crop
        return _sometimes_gray(crop, rng)


@final
class ImageFolder(PretrainingImages):
    """All images in a folder and the folders below it."""

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        super().__init__()
        self._folder = folder
        self._paths = tuple(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> RGBImage:
        """Read one image in its own size."""
        return read_image(self._paths[index])

    def description(self) -> str:
        """Name of the folder and number of images."""
        return f"{self._folder.resolve().name} ({len(self)} images)"

    def fingerprint(self) -> str:
        """Hash of all names and sizes and of the contents of some images."""
        labels = [
            f"{path.relative_to(self._folder).as_posix()} {path.stat().st_size}"
            for path in self._paths
        ]
        return _fingerprint(labels, lambda index: self._paths[index].read_bytes())


@final
class ImageTar(PretrainingImages):
    """The images in an uncompressed tar, read where they lie."""

    def __init__(self, path: Path) -> None:
        """List the members; only their headers are read.

        Raises:
            DatasetError: If the file is no uncompressed tar, or holds no images.
        """
        super().__init__()
        self._path = path
        self._names: list[str] = []
        self._places: list[tuple[int, int]] = []  # offset and size, bytes
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if member.isreg() and _is_image_name(member.name):
                        self._names.append(member.name)
                        self._places.append((member.offset_data, member.size))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DatasetError(
                f"an uncompressed tar of images was needed, {path} cannot be read as"
                f" one ({error}); unpack it and give the folder"
            ) from error
        if not self._names:
            raise DatasetError(
                f"a tar of images was needed, {path} holds none directly; unpack it and"
                " give the folder"
            )

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> RGBImage:
        """Read one image in its own size.

        Raises:
            ImageError: If it cannot be read; the message names tar and member.
        """
        name = f"{self._names[index]} in {self._path}"
        try:
            content = self._content(index)
        except OSError as error:
            raise ImageError(
                f"cannot read {name} ({error.strerror or error}); check path and "
                "permissions"
            ) from error
        return decode_image(content, name)

    def description(self) -> str:
        """Name of the tar and number of images."""
        return f"{self._path.name} ({len(self)} images)"

    def fingerprint(self) -> str:
        """Hash of all names and sizes and of the contents of some images."""
        labels = [
            f"{name} {size}"
            for name, (_, size) in zip(self._names, self._places, strict=True)
        ]
        return _fingerprint(labels, self._content)

    def _content(self, index: int) -> bytes:
        offset, size = self._places[index]
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


@final
class JoinedImages(PretrainingImages):
    """Several sources as one."""

    def __init__(self, parts: Sequence[PretrainingImages]) -> None:
        super().__init__()
        self._parts = tuple(parts)
        self._ends = tuple(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int) -> RGBImage:
        """Read one image in its own size."""
        number = bisect_right(self._ends, index)
        part = self._parts[number]
        return part.read(index - self._ends[number] + len(part))

    def description(self) -> str:
        """Descriptions of all parts."""
        return ", ".join(part.description() for part in self._parts)

    def fingerprint(self) -> str:
        """Hash of the parts' fingerprints."""
        prints = "".join(part.fingerprint() for part in self._parts)
        return hashlib.sha256(prints.encode()).hexdigest()


@final
class EmbeddedImages(PretrainingImages):
    """Pictures out of installed packages, varied, and textures drawn by code.

    Deviation: the paper's penalty sees ImageNet. These are for users who have no
    folder of natural images at hand.
    """

    def __init__(self) -> None:
        """Find the pictures.

        Raises:
            MissingDependencyError: If a package that carries them is not installed.
        """
        super().__init__()
        self._paths = find_embedded_pictures()
        self._pyramids: dict[int, list[Image.Image]] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> RGBImage:
        """Read one picture as it is."""
        return read_image(self._paths[index])

    def draw(self, rng: np.random.Generator) -> RGBImage:
        """Draw a varied picture, a texture, or a collage of two of them."""
        drawn = self._draw_plain(rng)
        if rng.random() < _COLLAGE_SHARE:
            mask = Image.new("L", (INPUT_SIZE, INPUT_SIZE))
            canvas = ImageDraw.Draw(mask)
            for _ in range(int(rng.integers(1, 6))):
                draw_shape(canvas, 255, INPUT_SIZE / 2, rng)
            other = Image.fromarray(self._draw_plain(rng))
            drawn = np.asarray(Image.composite(other, Image.fromarray(drawn), mask))
        return _sometimes_gray(drawn, rng)

    def _draw_plain(self, rng: np.random.Generator) -> RGBImage:
        if rng.random() < _TEXTURE_SHARE:
            return draw_texture(rng)
        index = int(rng.integers(len(self)))
        if index not in self._pyramids:
            self._pyramids[index] = pyramid(Image.fromarray(self.read(index)))
        return np.asarray(vary_picture(self._pyramids[index], rng))

    def description(self) -> str:
        """How many pictures, and the share of textures."""
        share = round(100 * _TEXTURE_SHARE)
        return f"embedded ({len(self)} pictures, {share} % textures drawn by code)"

    def fingerprint(self) -> str:
        """Hash of the pictures' names and contents."""
        names = [path.name for path in self._paths]
        return _fingerprint(names, lambda index: self._paths[index].read_bytes())


def open_pretraining_images(
    path: Path | str | Sequence[Path | str] | None = None,
) -> PretrainingImages:
    """Open a folder or tar of natural images, several of them, or the embedded ones.

    Args:
        path: A folder (read with all folders below it, tars in it included), an
            uncompressed tar, or a list of these. `None`: the embedded pictures and
            textures.

    Raises:
        DatasetError: If a path does not exist or holds no images, or lies in another
            one: its images would count twice.
        MissingDependencyError: If the embedded pictures are not installed.
    """
    if path is None:
        return EmbeddedImages()
    paths = [path] if isinstance(path, Path | str) else path
    _require_apart([Path(one) for one in paths])
    parts = [part for one in paths for part in _open_parts(Path(one))]
    if not parts:
        raise DatasetError("at least one folder or tar of images was needed, got none")
    return parts[0] if len(parts) == 1 else JoinedImages(parts)


def _require_apart(paths: Sequence[Path]) -> None:
    places = [path.resolve() for path in paths]
    known, seen = set(places), set[Path]()
    for path, place in zip(paths, places, strict=True):
        outer = place if place in seen else None
        outer = outer or next((p for p in place.parents if p in known), None)
        if outer is not None:
            raise DatasetError(
                f"each image must be given once, {path} is part of {outer}, which is "
                "read with all below it; leave it out"
            )
        seen.add(place)


def _open_parts(path: Path) -> list[PretrainingImages]:
    if path.is_file():
        return [ImageTar(path)]
    if not path.is_dir():
        raise DatasetError(
            f"a folder or tar of images was needed, {path} does not exist; check the"
            " path"
        )
    parts: list[PretrainingImages] = []
    images = find_images(path, recursive=True)
    if images:
        parts.append(ImageFolder(path, images))
    tars = sorted(path.rglob("*.[tT][aA][rR]"))
    parts += [ImageTar(tar) for tar in tars if _is_visible_file(tar, path)]
    if not parts:
        raise DatasetError(
            f"a folder of images was needed, {path} holds no images and no tars; give"
            " one with natural photographs"
        )
    return parts


def _is_visible_file(path: Path, folder: Path) -> bool:
    return path.is_file() and all(map(_is_visible, path.relative_to(folder).parts))


def _is_damaged(error: ImageError) -> bool:
    """Tell whether a picture is at fault, and not the disk or network it lies on."""
    cause = error.__cause__
    return not (isinstance(cause, OSError) and cause.errno is not None)


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _is_image_name(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and _is_visible(path.name)


def _fingerprint(labels: Sequence[str], content: Callable[[int], bytes]) -> str:
    digest = hashlib.sha256("\n".join(labels).encode(errors="surrogateescape"))
    for index in range(0, len(labels), -(-len(labels) // _N_HASHED_CONTENTS)):
        digest.update(content(index))
    return digest.hexdigest()


def _central_crop(image: RGBImage) -> RGBImage:
    first = (_RESIZED - INPUT_SIZE) // 2
    inner = slice(first, first + INPUT_SIZE)
    return resize_image(image, _RESIZED, _RESIZED)[inner, inner].copy()


def _sometimes_gray(image: RGBImage, rng: np.random.Generator) -> RGBImage:
    if rng.random() >= _GRAYSCALE_SHARE:
        return image.copy()
    return np.array(Image.fromarray(image).convert("L").convert("RGB"))
