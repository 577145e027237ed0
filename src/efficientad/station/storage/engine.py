"""The database of a station: SQLite in its data folder, or PostgreSQL at an address."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc

from efficientad.errors import StorageError, needs_extra
from efficientad.station.errors import UnavailableError
from efficientad.station.storage.dialects import Access, Dialect, sqlite
from efficientad.station.storage.tables import METADATA

P = ParamSpec("P")
R = TypeVar("R")
Work = Callable[Concatenate[Connection, P], R]
"""A function of a connection and other arguments."""

VERSION: Final = 1
"""Version of the tables, which the database keeps."""
_NETWORK_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "fuse.sshfs", "afs"}
)


@dataclass(frozen=True)
class Database:
    """The two ways to the database, and the lock on the data folder."""

    writing: Engine
    """For the writer alone; every transaction takes the database's lock for writing."""
    reading: Engine
    """For everything else; it refuses to write."""
    probe: str
    """A statement that writes, and changes nothing."""
    lock: int
    """Descriptor of the locked file; the end of the process opens the lock."""

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Yield a connection for reading; keep it for a short time only.

        Raises:
            UnavailableError: If the database is away.
        """
        try:
            with self.reading.connect() as connection:
                yield connection
        except (exc.InterfaceError, exc.OperationalError, exc.TimeoutError) as error:
            raise UnavailableError(
                f"the database cannot be read ({first_line(error)})"
            ) from error

    def read(self, query: Work[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what a query finds, called with a connection and these arguments."""
        with self.connect() as connection:
            return query(connection, *args, **kwargs)

    def close(self) -> None:
        """Close all connections and unlock the folder."""
        self.reading.dispose()
        self.writing.dispose()
        os.close(self.lock)


def open_database(folder: Path, dialect: Dialect | None = None) -> Database:
    """Open the database of a data folder, made if needed; its own one is SQLite.

    Raises:
        MissingDependencyError: If its driver is not installed.
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
        return _opened(dialect or sqlite(folder / "station.db"), lock)
    except (OSError, ImportError) as error:
        os.close(lock)
        if isinstance(error, StorageError | ImportError):
            raise
        raise StorageError(
            f"a data folder serves one station at a time, {folder} is in use; stop the "
            "other station, or give another folder"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of what a database says; savepoints fail after it."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]


def _opened(dialect: Dialect, lock: int) -> Database:
    with needs_extra("a PostgreSQL database", "postgres"):
        writing, reading = map(
            _engine, (dialect,) * 2, (dialect.writing, dialect.reading)
        )
    try:
        with writing.begin() as connection:
            _make_tables(connection, dialect)
    except exc.DBAPIError as error:
        raise StorageError(
            f"the database {dialect.shown} cannot be opened ({first_line(error)}); "
            f"{dialect.remedy}"
        ) from error
    return Database(writing, reading, dialect.set_version.format(VERSION), lock)


def _engine(dialect: Dialect, access: Access) -> Engine:
    engine = create_engine(dialect.url, **access.options)

    def connected(connection: Any, _record: Any) -> None:
        for statement in access.connected:
            connection.execute(statement)
        connection.commit()

    def begun(connection: Connection) -> None:
        for statement in access.begin:
            connection.exec_driver_sql(statement)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def _make_tables(connection: Connection, dialect: Dialect) -> None:
    """Create the tables, or raise `StorageError` for those of another release."""
    version = int(connection.exec_driver_sql(dialect.version).scalar() or 0)
    if version not in {0, VERSION}:
        raise StorageError(
            f"tables of version {VERSION} were needed, {dialect.shown} has version "
            f"{version}; use the release that wrote it, or give another data folder"
        )
    METADATA.create_all(connection)
    for statement in () if version else dialect.protect_audit:
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(dialect.set_version.format(VERSION))


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
