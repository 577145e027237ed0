"""Sources of very many images: folders, lists, tar files and object stores.

A source is divided into shards, each of which becomes one part of the results: a tar
file, or a number of image files that follow each other. URLs are read by fsspec.
"""

import os
import tarfile
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final

from efficientad.errors import DatasetError, ImageError, MissingDependencyError
from efficientad.images.decoding import N_FIRST_BYTES, begins_as_image
from efficientad.images.listing import (
    IMAGE_SUFFIXES,
    expanded,
    fault_of,
    find_images,
    unused_files,
    walk,
)
from efficientad.images.preparation import AS_IT_IS, Preparation
from efficientad.images.rgb import RGBImage
from efficientad.images.tars import has_image_suffix, is_hidden, require_end
from efficientad.storage import open_regular

_TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
_LIST_SUFFIX: Final = ".txt"
_ERRORS_OF_FSSPEC: Final = (
    *(OSError, ValueError, TypeError, AttributeError, NotImplementedError),
    *(tarfile.TarError, zipfile.BadZipFile),
)
"""Errors of fsspec's file systems for an address that is wrong, or does not answer."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Images whose results are one part."""

    paths: tuple[str, ...]
    """Paths or URLs of images, or of one tar file of them."""

    def part_name(self, salt: str) -> str:
        """Return a file name that only this shard has, with the name of its first file.

        Args:
            salt: Everything else that the results depend on.
        """
        digest = sha256(
            "\0".join([salt, *self.paths]).encode("utf-8", "surrogateescape")
        )
        stem = PurePosixPath(self.paths[0]).name.partition(".")[0]
        plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem)[:64]
        return f"{plain}-{digest.hexdigest()[:16]}.parquet"

    def contents(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield the path of each image, and its bytes if it lies in a tar file.

        Raises:
            DatasetError: If the tar file cannot be read to its end.
        """
        if not _is_tar(self.paths[0]):
            yield from ((path, None) for path in self.paths)
            return
        url = self.paths[0]
        try:
            files, name = file_system(url)
            with files.open(name, "rb") as file:
                if url.lower().endswith(".tar"):
                    require_end(file)
                with tarfile.open(fileobj=file, mode="r|*") as archive:
                    for member in archive:
                        content = _image_in(archive, member)
                        if content is not None:
                            yield f"{url}/{member.name}", content
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise DatasetError(
                f"a whole tar file of images was needed, {url} cannot be read "
                f"({error}); copy it again"
            ) from error


def image_of(
    path: str, content: bytes | None, preparation: Preparation = AS_IT_IS
) -> RGBImage:
    """Return an image of a shard.

    Args:
        path: Path or URL.
        content: Bytes of its file. None: they are read.
        preparation: How the detector reads images.

    Raises:
        ImageError: If it is missing, or no image that can be used.
        DatasetError: If the store of a URL does not answer.
    """
    if content is None and not is_url(path):
        return preparation.read(path)
    if content is None:
        files, name = file_system(path)
        try:
            with files.open(name, "rb") as file:
                content = file.read()
        except FileNotFoundError as error:
            raise ImageError(
                f"an image was needed, {path} does not exist; check the path"
            ) from error
        except _ERRORS_OF_FSSPEC as error:
            raise DatasetError(
                f"an image was needed, {path} cannot be read ({error}); check the "
                "connection and the permissions, and give the same command again"
            ) from error
    return preparation.read(content, path)


def find_shards(sources: Sequence[str], n_images: int) -> list[Shard]:
    """Divide sources into shards; a file that is named several times is in one of them.

    Args:
        sources: Paths, patterns or URLs of images, of tar files of them, and of folders
            of both; and text files with a path or URL in each line.
        n_images: Images in a shard, at least 1; a tar file is a shard of its own.

    Raises:
        DatasetError: If there is no image, or a source cannot be listed.
        MissingDependencyError: If what reads a URL is not installed.
    """
    paths: dict[str, str] = {}
    for path in (path for source in sources for path in _files_of(source)):
        place = path if is_url(path) else os.path.normpath(Path(path).absolute())
        paths.setdefault(place, path)
    shards = [Shard((path,)) for path in paths.values() if _is_tar(path)]
    images = (path for path in paths.values() if not _is_tar(path))
    while some := tuple(islice(images, n_images)):
        shards.append(Shard(some))
    if not shards:
        raise DatasetError(
            f"needed images or tar files of them, found none in {', '.join(sources)}; "
            "check the path"
        )
    return shards


def unused_of(
    sources: Sequence[str], shards: Sequence[Shard], *, apart: Sequence[Path]
) -> tuple[str, ...]:
    """Return a sentence on each local folder that holds more than these shards.

    Folders that are `apart` do not count.
    """
    used = [Path(p) for shard in shards for p in shard.paths if not is_url(p)]
    folders = [Path(s) for s in sources if not is_url(s) and Path(s).is_dir()]
    found = (unused_files(folder, used, apart=apart) for folder in folders)
    return tuple(filter(None, found))


def is_url(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def file_system(path: str) -> tuple[Any, str]:
    """Return fsspec's file system of a path or URL, and the path in it.

    Raises:
        MissingDependencyError: If fsspec, or its package for these URLs, is missing.
        DatasetError: If there are no such URLs.
    """
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415
        from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415

        if not is_url(path):
            return LocalFileSystem(), str(Path(path).absolute())
        found: tuple[Any, str] = url_to_fs(path)
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} needs a package that is not installed ({error}); "
            "run: pip install 'efficientad[ray]', and what it names"
        ) from error
    except _ERRORS_OF_FSSPEC as error:
        raise DatasetError(
            f"needed a path or a URL that fsspec reads, got {path} ({error}); check it"
        ) from error
    return found


def _files_of(source: str) -> Iterable[str]:
    if is_url(source):
        return _files_of_url(source)
    path = Path(source)
    if (matching := expanded(path)) != [path]:
        return [file for each in matching for file in _files_of(str(each))]
    if fault := fault_of(path):
        raise DatasetError(f"images were needed at {path}, {fault}; check the path")
    if path.is_dir():
        tars = (str(found) for found in walk(path) if _is_tar(found.name))
        return [*sorted(tars), *map(str, find_images(path, recursive=True))]
    if path.suffix.lower() != _LIST_SUFFIX:
        return [source]
    try:
        with open_regular(path) as file:
            lines = _lines(file.read())
    except OSError as error:
        raise DatasetError(
            f"a list of images was needed, {path} cannot be read ({error.strerror}); "
            "check it"
        ) from error
    return [line if is_url(line) else str(path.parent / line) for line in lines]


def _files_of_url(source: str) -> list[str]:
    files, place = file_system(source)
    try:
        if not files.isfile(place):
            found = [name for name in files.find(place) if _is_shown(name)]
        elif place.lower().endswith(_LIST_SUFFIX):
            lines, folder = _lines(files.cat_file(place)), source.rpartition("/")[0]
            return [line if is_url(line) else f"{folder}/{line}" for line in lines]
        else:
            found = [place]
    except _ERRORS_OF_FSSPEC as error:
        raise DatasetError(
            f"images were needed at {source}, which cannot be listed ({error}); check "
            "the address and the permissions"
        ) from error
    if not found:
        raise DatasetError(
            f"needed images or tar files of them, found none in {source}; check the "
            "address"
        )
    return sorted(str(files.unstrip_protocol(name)) for name in found)


def _lines(content: bytes) -> list[str]:
    """Return the lines of a text that are not empty."""
    text = content.removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape")
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [line for line in lines if line]


def _is_tar(path: str) -> bool:
    return path.lower().endswith(_TAR_SUFFIXES)


def _is_shown(name: str) -> bool:
    """Return whether a file of a folder is an image, or a tar file of them."""
    is_used = name.lower().endswith((*IMAGE_SUFFIXES, *_TAR_SUFFIXES))
    return is_used and not is_hidden(name)


def _image_in(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """Return the bytes of a member that is an image, else None."""
    has_suffix = has_image_suffix(member)
    if not member.isfile() or is_hidden(member.name):
        return None
    file = archive.extractfile(member)
    assert file is not None
    first_bytes = file.read(N_FIRST_BYTES)
    is_image = has_suffix or begins_as_image(first_bytes)
    return first_bytes + file.read() if is_image else None
