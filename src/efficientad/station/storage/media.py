"""Files of inspected images, on the disk before anybody is told of them."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from efficientad.station.errors import UnavailableError
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


class MediaStore:
    """Originals in a folder: `incoming/ID.part`, then `YYYY-MM-DD/HH/MM/ID.png`."""

    def __init__(
        self, folder: Path, *, min_free_mb: int, min_free_share: float
    ) -> None:
        self.folder = folder
        self.opened_at = datetime.now(UTC)
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
        """Return the place of an image, relative to the folder."""
        suffix = next(s for start, s in SUFFIX_OF if first_bytes.startswith(start))
        minute = received_at.astimezone(UTC).strftime("%Y-%m-%d/%H/%M")
        return f"{minute}/{number}{suffix}"

    def path(self, place: str) -> Path:
        """Return the path of a place."""
        return self.folder / place

    def keep(self, part: Path, place: str) -> None:
        """Move an image that has come to its place, so that it stays there.

        Raises:
            UnavailableError: If the disk refuses; nothing is stored until `check`
                has succeeded.
        """
        path = self.folder / place
        try:
            synchronize(part)
            new_folders = [p for p in path.parents if not p.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            part.rename(path)
            synchronize(path.parent)
            for folder in new_folders:
                synchronize(folder.parent)
        except OSError as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> UnavailableError:
        """Return what to raise after a failed write; until `check`, all fail."""
        self.problem = f"images cannot be stored ({error.strerror or error})"
        return UnavailableError(self.problem)

    def remove(self, place: str) -> None:
        """Remove an image, if it is there."""
        (self.folder / place).unlink(missing_ok=True)

    def check(self) -> None:
        """Find out whether images can be stored: there is room, and a probe is kept."""
        usage = shutil.disk_usage(self.folder)
        least = max(self._min_free, self._min_share * usage.total)
        if usage.free < least:
            self.problem = f"the disk has only {usage.free // _MEBIBYTE} MB left"
        elif self.problem is not None:
            probe = self._incoming / "probe"
            try:
                probe.write_bytes(bytes(65536))
                synchronize(probe)
                probe.unlink()
            except OSError as error:
                self.failed(error)
            else:
                self.problem = None

    def forget_incoming(self) -> None:
        """Remove what a killed station had not answered."""
        for path in self._incoming.iterdir():
            path.unlink()

    def minutes(self) -> Iterator[tuple[str, list[Path]]]:
        """Yield the images of each minute, with the minute's place."""
        for folder in sorted(self.folder.glob("????-??-??/??/??")):
            place = folder.relative_to(self.folder).as_posix()
            yield place, [path for path in folder.iterdir() if path.is_file()]
