"""All in which SQLite and PostgreSQL differ: options and statements.

One rule holds for both: a transaction that writes has the database's only lock for
writing from its start on. It is SQLite's own, or an advisory lock of PostgreSQL. What
a writer has read is therefore true until its commit, also beside other replicas.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from efficientad.errors import ConfigError

LOCK_SECONDS: Final = 0.5
"""Time that a commit waits for an SQLite file that another program has locked."""

_N_READERS: Final = 4
_POSTGRESQL: Final = "postgresql+psycopg"
# The server notices within seconds that a station's computer is gone.
_SESSION: Final = {
    "lock_timeout": "2s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
# A writer that stops within a transaction does not hold up the others.
_WRITING: Final = {
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "10s",
}
_REFUSAL: Final = "the audit log does not change"
_READING: Final = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": r"repeatable\ read",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """One way to a database: for its writer, or for everybody else."""

    options: dict[str, Any]
    """Arguments of `create_engine`."""
    connected: tuple[str, ...] = ()
    """Statements that prepare each new connection."""
    begin: tuple[str, ...] = ()
    """Statements that begin each transaction."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A database, and the statements that only it understands."""

    url: URL
    shown: str
    """Its name for people, without a password."""
    remedy: str
    """Advice for a database that cannot be opened."""
    writing: Access
    reading: Access
    version: str
    """Query of the version of its tables; nothing or 0 without tables."""
    set_version: str
    """Statement that writes this version, for `{}`."""
    protect_audit: tuple[str, ...]
    """Statements after which the database refuses changes of the audit log."""


def sqlite(path: Path) -> Dialect:
    """Return SQLite with a file.

    WAL with synchronous=FULL: a commit is on the disk when it returns. One connection
    writes and checkpoints, since the reset of the WAL has a bug with several (SQLite
    before 3.51); readers only read. SQLite's driver would begin too late by itself.
    """
    driver = {"isolation_level": None, "timeout": LOCK_SECONDS}
    keys = "PRAGMA foreign_keys=ON"
    return Dialect(
        url=URL.create("sqlite", database=str(path)),
        shown=str(path),
        remedy="restore it from a copy, or give another data folder",
        writing=Access(
            options={"connect_args": driver, "poolclass": NullPool},
            connected=("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", keys),
            begin=("BEGIN IMMEDIATE",),
        ),
        reading=Access(
            options={
                "connect_args": driver,
                "pool_size": _N_READERS,
                "max_overflow": 60,
            },
            connected=("PRAGMA query_only=ON", "PRAGMA wal_autocheckpoint=0", keys),
            begin=("BEGIN",),
        ),
        version="PRAGMA user_version",
        set_version="PRAGMA user_version = {}",
        protect_audit=tuple(
            f"CREATE TRIGGER audit_no_{change.lower()} BEFORE {change} ON audit BEGIN "
            f"SELECT RAISE(ABORT, '{_REFUSAL}'); END"
            for change in ("UPDATE", "DELETE")
        ),
    )


def postgresql(address: str, replica: str, *, has_peers: bool) -> Dialect:
    """Return PostgreSQL at an address.

    The writer's connection holds the name of its replica, and the whole database unless
    others may share it, for as long as it lives.

    Raises:
        ConfigError: If the address cannot be understood.
    """
    try:
        url = make_url(address)
        kind = url.drivername
    except (ArgumentError, ValueError):  # which name the address with its password
        kind = "another text"
    if kind not in {"postgresql", _POSTGRESQL}:
        raise ConfigError(
            f"database needs an address such as {_POSTGRESQL}://USER:PASSWORD@HOST/"
            f"NAME, got {kind}; correct it"
        )
    url = url.set(drivername=_POSTGRESQL)
    given = str(url.query.get("options", ""))
    driver = {"connect_timeout": 2, "tcp_user_timeout": 5000}
    return Dialect(
        url=url,
        shown=url.set(query={}).render_as_string(hide_password=True),
        remedy="check that it runs, and the settings",
        writing=Access(
            options={
                "connect_args": driver | {"options": _options(given, _WRITING)},
                "poolclass": NullPool,
            },
            connected=(
                _held(
                    f"replica {replica}", f"another station is the replica {replica}"
                ),
                _held(
                    "stations",
                    "another station uses it, and both need media = s3://… to share it",
                    "_shared" if has_peers else "",
                ),
            ),
            begin=(f"SELECT pg_advisory_xact_lock({_key('writing')})",),
        ),
        reading=Access(
            options={
                "connect_args": driver | {"options": _options(given, _READING)},
                "pool_pre_ping": True,
                "pool_size": _N_READERS,
                "max_overflow": 12,
            }
        ),
        version="SELECT obj_description(to_regclass('inspections'), 'pg_class')",
        set_version="COMMENT ON TABLE inspections IS '{}'",
        protect_audit=(
            f"""CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = '23000'; END $$""",
            """CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE
            ON audit EXECUTE FUNCTION refuse_change()""",
        ),
    )


def _options(given: str, settings: dict[str, str]) -> str:
    """Return options of a session, behind those of the address."""
    own = (_SESSION | settings).items()
    return " ".join([given, *(f"-c {k}={v}" for k, v in own)]).strip()


def _key(name: str) -> int:
    """Return the number of an advisory lock: 64 bits with a sign."""
    digest = hashlib.sha256(f"efficientad {name}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _held(name: str, problem: str, mode: str = "") -> str:
    """Return the statement that takes a lock for as long as the connection lives."""
    return (
        f"DO $$ BEGIN PERFORM pg_advisory_lock{mode}({_key(name)}); "
        f"EXCEPTION WHEN lock_not_available THEN RAISE EXCEPTION '{problem}'; END $$"
    )
