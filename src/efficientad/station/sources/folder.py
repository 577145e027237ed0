"""A folder that is looked at for new images, also on a network share.

Looking is by polling: changes on a share are not announced. A file that has stayed the
same for a second is inspected and moved once its inspection is stored; after a kill it
is found again, and known by its name, size and time.
"""

import hashlib
import os
import shutil
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from efficientad.errors import EfficientADError, ImageError
from efficientad.images.decoding import N_FIRST_BYTES, begins_as_image
from efficientad.names import printable
from efficientad.station.config import Folder
from efficientad.station.prediction.pipeline import Station
from efficientad.station.prediction.records import Answer, Arrival
from efficientad.station.storage import registry
from efficientad.station.storage.queries import new_id

_AT_ONCE: Final = 4
_GIVE_UP_SECONDS: Final = 30.0
_CHUNK: Final = 2**20
_LONGEST_PART: Final = 200


class _Version(NamedTuple):
    size: int
    mtime_ns: int


class _Seen(NamedTuple):
    version: _Version
    since: float
    is_refused: bool = False


class FolderSource:
    """Inspects the images in a folder, in a thread of its own."""

    def __init__(self, folder: Folder, station: Station) -> None:
        self._folder = folder
        self._station = station
        self._done = folder.done or folder.path / "done"
        self._failed = folder.path / "failed"
        self._seen: dict[str, _Seen] = {}
        self._problem: str | None = None
        self._is_closing = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name=f"folder {folder.name}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the thread; what it has begun is finished."""
        self._is_closing.set()
        self._thread.join()

    def _watch(self) -> None:
        station = self._station
        while not self._is_closing.wait(self._folder.seconds):
            try:
                if station.database.read(registry.is_running, self._folder.name):
                    self._look()
                self._problem = None
            except (OSError, EfficientADError) as error:
                if str(error) != self._problem:  # once, not at every look
                    self._problem = str(error)
                    self._report(self._problem)

    def _look(self) -> None:
        """Inspect all files that have not changed for some time, oldest first.

        Raises:
            OSError: If one cannot be read or moved now. It stays, and the others are
                inspected.
        """
        station, name = self._station, self._folder.name
        stable = self._stable()
        problem = self._set_aside()
        for start in range(0, len(stable), _AT_ONCE):
            begun: list[tuple[Path, _Version, Future[Answer]]] = []
            for path, version in stable[start : start + _AT_ONCE]:
                if not station.wait_for_place(name, self._is_closing):
                    break
                try:
                    answer = self._begin(path, version)
                except OSError as error:  # of a share or disk, not of the image
                    problem = error
                    continue
                if answer is not None:
                    begun.append((path, version, answer))
            for path, version, answer in begun:
                try:
                    self._finish(path, version, answer)
                except OSError as error:
                    problem = error
            if self._is_closing.is_set():
                return
        if problem is not None:
            raise problem

    def _stable(self) -> list[tuple[Path, _Version]]:
        now, stable = time.monotonic(), []
        seen: dict[str, _Seen] = {}
        with os.scandir(self._folder.path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_file():
                    continue
                status = entry.stat()
                version = _Version(status.st_size, status.st_mtime_ns)
                known = self._seen.get(entry.name)
                if known is None or known.version != version:
                    known = _Seen(version, now)
                seen[entry.name] = known
                is_old = now - known.since >= self._folder.stable_seconds
                if is_old and not known.is_refused:
                    stable.append((Path(entry.path), version))
        self._seen = seen
        return sorted(stable, key=lambda each: each[1].mtime_ns)

    def _set_aside(self) -> OSError | None:
        """Move files away that are no usable images and do not change any more.

        Returns:
            The last error, if some cannot be moved.
        """
        latest, problem = time.monotonic() - _GIVE_UP_SECONDS, None
        for name, seen in self._seen.items():
            if seen.is_refused and seen.since <= latest:
                try:
                    self._move(self._folder.path / name, self._failed)
                    self._report(f"{printable(name)} is no usable image")
                except OSError as error:
                    problem = error
        return problem

    def _begin(self, path: Path, version: _Version) -> "Future[Answer] | None":
        """Copy a file that has a place, and return its future answer."""
        number, received_at = new_id(), datetime.now(UTC)
        part = self._station.media.incoming(number)
        try:
            first_bytes, digest = _copied(path, part, version)
        except (OSError, ImageError) as error:
            part.unlink(missing_ok=True)
            self._station.leave()
            if isinstance(error, OSError):
                raise
            self._refuse(path)
            return None
        name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]
        return self._station.submit(
            Arrival(
                id=number,
                source=self._folder.name,
                sha256=digest,
                media_bytes=version.size,
                first_bytes=first_bytes,
                received_at=received_at,
                captured_at=datetime.fromtimestamp(version.mtime_ns / 1e9, UTC),
                source_key=f"{version.mtime_ns}-{version.size}-{name}",
                part=printable(path.stem)[:_LONGEST_PART],
            )
        )

    def _finish(self, path: Path, version: _Version, answer: "Future[Answer]") -> None:
        """Move a file when its inspection is stored; otherwise it stays."""
        try:
            answer.result()
        except ImageError:
            self._refuse(path)
        except EfficientADError as error:
            self._station.log.warning("folder", file=path.name, error=str(error))
        else:
            status = path.stat()
            if _Version(status.st_size, status.st_mtime_ns) == version:
                self._move(path, self._done)

    def _refuse(self, path: Path) -> None:
        """Leave a file alone until it changes; a slow copy may not be whole yet."""
        if path.name in self._seen:
            seen = self._seen[path.name]
            self._seen[path.name] = seen._replace(is_refused=True)

    def _move(self, path: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / path.name
        if place.exists():
            place = place.with_name(f"{new_id()}{path.suffix}")
        shutil.move(path, place)

    def _report(self, detail: str) -> None:
        self._station.report("folder", f"{self._folder.name}: {detail}")


def _copied(path: Path, part: Path, version: _Version) -> tuple[bytes, str]:
    """Copy a file, and return its first bytes and its SHA-256.

    Raises:
        ImageError: If it is no image, or is being written.
    """
    digest = hashlib.sha256()
    with path.open("rb") as source, part.open("wb") as copy:
        first_bytes = source.read(N_FIRST_BYTES)
        if not begins_as_image(first_bytes):
            raise ImageError("no image by its first bytes")
        source.seek(0)
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
        status = os.fstat(source.fileno())
    if _Version(status.st_size, status.st_mtime_ns) != version:
        raise ImageError("it changes")
    return first_bytes, digest.hexdigest()
