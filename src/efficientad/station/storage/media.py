"""Files of inspected images, kept for good before anybody is told of them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from efficientad.station.errors import UnavailableError
from efficientad.station.storage.queries import new_id
from efficientad.storage import synchronize

SUFFIX_OF: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"BM", ".bmp"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
    (b"RIFF", ".webp"),
    (b"GIF8", ".gif"),
)
_MEBIBYTE: Final = 2**20
_MINUTE: Final = "%Y-%m-%d/%H/%M"
_MODELS: Final = "models"


@runtime_checkable
class Files(Protocol):
    """Files by their places: in a folder, or in a bucket.

    What goes wrong is an `OSError`.
    """

    prefix: str
    """First part of the places that this replica makes."""
    is_shared: bool
    """Whether other replicas have the same files."""

    def keep(self, part: Path, place: str) -> None:
        """Bring a file to its place, so that it stays there; `part` may be moved."""

    def paths(self, place: str) -> tuple[Path, ...]:
        """Return the paths of a place on this computer, if it is there."""

    def get(self, place: str, copy: Path) -> Path:
        """Return the path of a file, which is the copy's if it had to be fetched."""

    def exists(self, place: str) -> bool:
        """Return whether there is a file."""

    def begun_at(self, place: str) -> datetime:
        """Return when a file began to be made."""

    def remove(self, place: str) -> None:
        """Remove a file, if it is there."""

    def probe(self) -> None:
        """Keep a file, and remove it."""

    def prune(self, minute: str) -> None:
        """Remove what an empty minute leaves."""

    def minutes(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the minutes of this replica's images, and the places in each."""


class MediaStore:
    """Originals: `incoming/ID.part` on the disk, then kept as `…/ID.png`."""

    def __init__(
        self, folder: Path, files: Files, *, min_free_mb: int, min_free_share: float
    ) -> None:
        self.opened_at = datetime.now(UTC)
        self.is_shared = files.is_shared
        self._files = files
        self._incoming = folder / "incoming"
        self._min_free = min_free_mb * _MEBIBYTE
        self._min_share = min_free_share
        self.problem: str | None = None
        """Reason why no image can be stored; `check` finds whether it still holds."""
        self._incoming.mkdir(parents=True, exist_ok=True)

    def incoming(self, number: str) -> Path:
        """Return where an image is written as it comes."""
        return self._incoming / f"{number}.part"

    def place(self, number: str, first_bytes: bytes, received_at: datetime) -> str:
        """Return the place of an image, which does not depend on the computer."""
        suffix = next(s for start, s in SUFFIX_OF if first_bytes.startswith(start))
        minute = received_at.astimezone(UTC).strftime(_MINUTE)
        return f"{self._files.prefix}{minute}/{number}{suffix}"

    def paths(self, part: Path, place: str) -> tuple[Path, ...]:
        """Return where an image can be read on this computer while it is kept."""
        return (part, *self._files.paths(place))

    @contextmanager
    def file(self, place: str) -> Iterator[Path]:
        """Yield the path of an image; there is no file if it has been removed.

        Raises:
            UnavailableError: If it cannot be fetched.
        """
        copy = self.incoming(new_id()).with_suffix(Path(place).suffix)
        try:
            yield self._get(place, copy)
        finally:
            copy.unlink(missing_ok=True)

    def share(self, path: Path) -> None:
        """Keep a model file for the other replicas as well."""
        if self.is_shared:
            try:
                self._files.keep(path, f"{_MODELS}/{path.name}")
            except OSError as error:
                raise self.failed(error) from error

    def obtain(self, path: Path) -> None:
        """Fetch a model file that another replica has added."""
        if self.is_shared and not path.exists():
            copy = self._get(f"{_MODELS}/{path.name}", self.incoming(new_id()))
            if copy.exists():
                LocalFiles(path.parent).keep(copy, path.name)

    def keep(self, part: Path, place: str) -> None:
        """Bring an image that has come to its place, so that it stays there.

        Raises:
            UnavailableError: If that fails; nothing is stored until `check` has
                succeeded.
        """
        try:
            self._files.keep(part, place)
        except OSError as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> UnavailableError:
        """Return what to raise after a failed write; until `check`, all fail."""
        self.problem = f"images cannot be stored ({error.strerror or error})"
        return UnavailableError(self.problem)

    def remove(self, place: str) -> None:
        """Remove an image, if it is there; a next start repeats what fails now."""
        with suppress(OSError):
            self._files.remove(place)

    def check(self) -> None:
        """Find out whether images can be stored: there is room, and a probe is kept."""
        usage = shutil.disk_usage(self._incoming)
        least = max(self._min_free, self._min_share * usage.total)
        if usage.free < least:
            self.problem = f"the disk has only {usage.free // _MEBIBYTE} MB left"
        elif self.problem is not None:
            probe = self._incoming / "probe"
            try:
                probe.write_bytes(bytes(65536))
                synchronize(probe)
                probe.unlink()
                self._files.probe()
            except OSError as error:
                self.failed(error)
            else:
                self.problem = None

    def forget_incoming(self) -> None:
        """Remove what a killed station had not answered."""
        for path in self._incoming.iterdir():
            path.unlink()

    def earlier_minutes(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the minutes until this start, and the places of images in each."""
        for minute, places in self._files.minutes():
            text = f"{minute.removeprefix(self._files.prefix)} +0000"
            if datetime.strptime(text, f"{_MINUTE} %z") <= self.opened_at:
                yield minute, places
                if not places:
                    self._files.prune(minute)

    def is_lost(self, place: str) -> bool:
        """Return whether an image of a row is gone."""
        return not self._files.exists(place)

    def is_left_over(self, place: str) -> bool:
        """Return whether an image without row is of an earlier process."""
        return self._files.begun_at(place) < self.opened_at

    def _get(self, place: str, copy: Path) -> Path:
        try:
            return self._files.get(place, copy)
        except OSError as error:
            raise UnavailableError(
                f"a file cannot be read ({error.strerror or error})"
            ) from error


class LocalFiles:
    """Files in a folder: `YYYY-MM-DD/HH/MM/ID.png`."""

    prefix = ""
    is_shared = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, part: Path, place: str) -> None:
        """Move a file to its place; file and folders are on the disk then."""
        path = self._folder / place
        synchronize(part)
        new_folders = [p for p in path.parents if not p.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        part.rename(path)
        synchronize(path.parent)
        for folder in new_folders:
            synchronize(folder.parent)

    def paths(self, place: str) -> tuple[Path, ...]:
        """Return the path of a place."""
        return (self._folder / place,)

    def get(self, place: str, copy: Path) -> Path:
        """Return the path of a place; nothing has to be fetched."""
        del copy
        return self._folder / place

    def exists(self, place: str) -> bool:
        """Return whether there is a file."""
        return (self._folder / place).exists()

    def begun_at(self, place: str) -> datetime:
        """Return when a file was last written."""
        return datetime.fromtimestamp((self._folder / place).stat().st_mtime, UTC)

    def remove(self, place: str) -> None:
        """Remove a file, if it is there."""
        (self._folder / place).unlink(missing_ok=True)

    def probe(self) -> None:
        """Do nothing: what comes is on the same disk."""

    def prune(self, minute: str) -> None:
        """Remove the folder of a minute if it is empty."""
        with suppress(OSError):
            (self._folder / minute).rmdir()

    def minutes(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the minutes of all images, and the places in each."""
        for folder in sorted(self._folder.glob("????-??-??/??/??")):
            minute = folder.relative_to(self._folder).as_posix()
            files = (path.name for path in folder.iterdir() if path.is_file())
            yield minute, [f"{minute}/{name}" for name in files]
