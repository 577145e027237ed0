"""All that a station keeps: its database and its files."""

from typing import NamedTuple

from efficientad.errors import StorageError, needs_extra
from efficientad.station.config import StationConfig
from efficientad.station.storage import leases
from efficientad.station.storage.dialects import postgresql
from efficientad.station.storage.engine import Database, open_database
from efficientad.station.storage.media import Files, LocalFiles, MediaStore
from efficientad.station.storage.writer import Writer


class Store(NamedTuple):
    """Database and files of a station."""

    database: Database
    writer: Writer
    media: MediaStore
    replica: str
    """Text that stands for this process among those that share the database."""

    @property
    def has_peers(self) -> bool:
        """Whether other replicas may share both the database and the files."""
        is_server = self.database.reading.dialect.name == "postgresql"
        return is_server and self.media.is_shared

    def holds(self, lease: str) -> bool:
        """Return whether this replica has a lease, which it takes if nobody has it.

        A station that shares nothing has all of them.

        Raises:
            UnavailableError: If the database is away.
        """
        if not self.has_peers:
            return True
        holder = self.database.read(leases.holder_of, lease)
        if holder is not None:
            return holder == self.replica
        return self.writer.run(leases.take, lease, self.replica)

    def close(self) -> None:
        """Write what waits, end all leases, and close the database."""
        self.writer.submit(leases.release, holder=self.replica)
        self.writer.close()
        self.database.close()


def open_store(config: StationConfig) -> Store:
    """Open the database and the media of a station, made if needed.

    Raises:
        ConfigError: If an address cannot be understood.
        MissingDependencyError: If a package is missing that an address needs.
        StorageError: If something cannot be opened, or another station uses it.
    """
    replica, dialect = config.replica_name, None
    if config.database is not None:
        has_peers = config.media is not None
        dialect = postgresql(config.database, replica, has_peers=has_peers)
    files = _files(config)
    database = open_database(config.data, dialect)
    media = MediaStore(
        config.data / "media",
        files,
        min_free_mb=config.min_free_mb,
        min_free_share=config.min_free_share,
    )
    store = Store(database, Writer(database), media, replica)
    store.writer.run(leases.release, holder=replica)
    return store


def _files(config: StationConfig) -> Files:
    if config.media is None:
        return LocalFiles(config.data / "media")
    with needs_extra("media in a bucket", "s3"):
        from efficientad.station.storage.object_media import (  # noqa: PLC0415 - extra
            ObjectFiles,
        )
    files = ObjectFiles(config.media, config.replica_name)
    try:
        files.probe()
    except OSError as error:
        raise StorageError(
            f"a station needs its media, {config.media} cannot be written "
            f"({error.strerror or error}); check the bucket, and the keys in the "
            "environment"
        ) from error
    return files
