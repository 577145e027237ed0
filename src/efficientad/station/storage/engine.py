"""The database of a station: SQLite in its data folder, one process at a time.

WAL with synchronous=FULL: a commit is on the disk when it returns. One connection
writes and checkpoints, since the reset of the WAL has a bug with several (SQLite before
3.51); readers only read.
"""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from efficientad.errors import StorageError
from efficientad.station.storage.tables import METADATA

P = ParamSpec("P")
R = TypeVar("R")
Work = Callable[Concatenate[Connection, P], R]
"""A function of a connection and other arguments."""

LOCK_SECONDS: Final = 0.5
"""Time that a commit waits for a database that another program has locked."""

VERSION: Final = 1
"""Version of the tables, which the database file keeps."""
_N_READERS: Final = 4
_NETWORK_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "fuse.sshfs", "afs"}
)


@dataclass(frozen=True)
class Database:
    """The two ways to the database, and the lock on its folder."""

    writing: Engine
    """For the writer alone; every transaction takes the lock of the database."""
    reading: Engine
    """For everything else; it refuses to write."""
    lock: int
    """Descriptor of the locked file; the end of the process opens the lock."""

    def connect(self) -> Connection:
        """Return a connection for reading; keep it for a short time only."""
        return self.reading.connect()

    def read(self, query: Work[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what a query finds, called with a connection and these arguments."""
        with self.connect() as connection:
            return query(connection, *args, **kwargs)

    def close(self) -> None:
        """Close all connections and unlock the folder."""
        self.reading.dispose()
        self.writing.dispose()
        os.close(self.lock)


def open_database(folder: Path) -> Database:
    """Open the database in a data folder, made if needed.

    Raises:
        StorageError: If another station uses the folder, it is in a network, or the
            database cannot be opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"a station needs a data folder that it can write to, {folder} is none "
            f"({error.strerror}); give another one"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _require_local(folder)
        return Database(*_engines(folder / "station.db"), lock)
    except OSError as error:
        os.close(lock)
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"a data folder serves one station at a time, {folder} is in use; stop the "
            "other station, or give another folder"
        ) from error


def _engines(path: Path) -> tuple[Engine, Engine]:
    url = f"sqlite:///{path}"
    options: dict[str, Any] = {"isolation_level": None, "timeout": LOCK_SECONDS}
    writing = create_engine(url, connect_args=options, poolclass=NullPool)
    reading = create_engine(
        url, connect_args=options, pool_size=_N_READERS, max_overflow=60
    )
    _prepare(writing, "BEGIN IMMEDIATE", "journal_mode=WAL", "synchronous=FULL")
    _prepare(reading, "BEGIN", "query_only=ON", "wal_autocheckpoint=0")
    try:
        with writing.begin() as connection:
            _make_tables(connection, path)
    except DBAPIError as error:
        raise StorageError(
            f"the database {path} cannot be opened ({error.orig}); restore it from a "
            "copy, or give another data folder"
        ) from error
    return writing, reading


def _prepare(engine: Engine, begin: str, *pragmas: str) -> None:
    """Set pragmas on every connection; SQLite's driver would begin too late."""

    def connected(connection: Any, _record: Any) -> None:
        for pragma in (*pragmas, "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)


def _make_tables(connection: Connection, path: Path) -> None:
    """Create the tables, or raise `StorageError` for those of another release."""
    version = connection.exec_driver_sql("PRAGMA user_version").scalar()
    if version not in {0, VERSION}:
        raise StorageError(
            f"tables of version {VERSION} were needed, {path} has version {version}; "
            "use the release that wrote it, or give another data folder"
        )
    METADATA.create_all(connection)
    connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")


def _require_local(folder: Path) -> None:
    """Raise `StorageError` for a network file system: locks and fsync fail there."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    kinds = {Path(m[1].replace("\\040", " ")): m[2] for m in map(str.split, mounts)}
    place = folder.resolve()
    kind = next((kinds[p] for p in (place, *place.parents) if p in kinds), "")
    if kind in _NETWORK_SYSTEMS:
        raise StorageError(
            f"a data folder must be on a local disk, {folder} is on {kind}; give "
            "another one"
        )
