"""Files in a bucket of S3, which all replicas of a station share."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from s3fs import S3FileSystem

from efficientad.errors import ConfigError
from efficientad.station.storage.queries import time_of

_SCHEME: Final = "s3://"
_CLIENT: Final = {"connect_timeout": 2, "read_timeout": 10}


class ObjectFiles:
    """Files in a bucket: `REPLICA/YYYY-MM-DD/HH/MM/ID.png`, behind its own prefix.

    Endpoint and keys are those of the environment: AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID, and the other ones of AWS. An answer to an upload means that the
    object is stored.
    """

    is_shared = True

    def __init__(self, address: str, replica: str) -> None:
        """Open a bucket, or raise `ConfigError` for an address of something else."""
        bucket = address.removeprefix(_SCHEME).strip("/")
        if bucket == address.strip("/") or not bucket:
            raise ConfigError(
                f"media needs a bucket such as s3://NAME/PREFIX, got {address}; "
                "correct it"
            )
        self.prefix = f"{replica}/"
        self._root = bucket
        self._system = S3FileSystem(
            skip_instance_cache=True, use_listings_cache=False, config_kwargs=_CLIENT
        )

    def keep(self, part: Path, place: str) -> None:
        """Upload a file."""
        with _as_os_errors():
            self._system.put_file(str(part), self._object(place))

    def paths(self, place: str) -> tuple[Path, ...]:
        """Return no path: nothing is on this computer."""
        del place
        return ()

    def get(self, place: str, copy: Path) -> Path:
        """Download a file, if it exists, and return the path of the copy."""
        with _as_os_errors():
            try:
                content = self._system.cat_file(self._object(place))
            except FileNotFoundError:
                return copy
        copy.write_bytes(content)
        return copy

    def exists(self, place: str) -> bool:
        """Return whether there is a file."""
        with _as_os_errors():
            return bool(self._system.exists(self._object(place)))

    def begun_at(self, place: str) -> datetime:
        """Return when the image came, by its number: clocks of buckets differ."""
        try:
            return time_of(PurePosixPath(place).stem)
        except ValueError:  # another program's
            return datetime.now(UTC)

    def remove(self, place: str) -> None:
        """Remove a file, if it is there."""
        with _as_os_errors():
            self._system.rm_file(self._object(place))

    def probe(self) -> None:
        """Upload a file, and remove it."""
        place = f"{self.prefix}probe"
        with _as_os_errors():
            self._system.pipe_file(self._object(place), b"probe")
        self.remove(place)

    def prune(self, minute: str) -> None:
        """Do nothing: there are no folders."""

    def minutes(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the minutes of this replica's images, and the places in each."""
        for day in self._listed(self.prefix, is_deep=False):
            places = sorted(self._listed(day, is_deep=True))
            for minute, found in groupby(places, lambda p: p.rpartition("/")[0]):
                yield minute, list(found)

    def _object(self, place: str) -> str:
        return f"{self._root}/{place}"

    def _listed(self, place: str, *, is_deep: bool) -> list[str]:
        """Return the places of folders in a place, or of all files in it."""
        with _as_os_errors():
            try:
                if is_deep:
                    found = self._system.find(self._object(place))
                else:
                    listed = self._system.ls(self._object(place), detail=True)
                    found = [e["name"] for e in listed if e["type"] == "directory"]
            except FileNotFoundError:
                return []
        return [name.removeprefix(f"{self._root}/") for name in found]


@contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error
