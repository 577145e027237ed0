"""The audit log in the database. Entries are appended, and never change."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, select

from efficientad.station.audit_chain import Actor, Entry, Head, next_entry
from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import Row, as_json, rows

_AT_ONCE: Final = 1000


def append(
    connection: Connection, by: Actor, action: str, subject: str, **states: Any
) -> None:
    """Append an action to the chain, in the transaction that does it.

    The writer is the only one that appends. `states` are `before`, `after` and
    `reason` of the entry.
    """
    now = datetime.now(UTC)
    entry = next_entry(head(connection), now, by, action, subject, **states)
    row = asdict(entry) | {"at": datetime.fromisoformat(entry.at)}
    connection.execute(t.audit.insert().values(**row))


def state(row: Row, *names: str) -> Any:
    """Return some columns of a row as the state before or after an action."""
    return as_json({name: row[name] for name in names})


def head(connection: Connection) -> Head:
    """Return number and hash of the last entry."""
    query = select(t.audit.c.seq, t.audit.c.hash).order_by(t.audit.c.seq.desc())
    found = connection.execute(query.limit(1)).first()
    return Head() if found is None else Head(found.seq, found.hash)


def entries(connection: Connection) -> Iterator[Entry]:
    """Yield all entries, first to last."""
    after = 0
    while True:
        query = select(t.audit).where(t.audit.c.seq > after).order_by(t.audit.c.seq)
        found = rows(connection, query.limit(_AT_ONCE))
        for row in found:
            yield _entry(row)
        if len(found) < _AT_ONCE:
            return
        after = found[-1]["seq"]


def list_entries(
    connection: Connection, *, limit: int, before: int | None, actor: str | None
) -> list[Entry]:
    """Return entries before a number and of an actor, if given, newest first."""
    query = select(t.audit).order_by(t.audit.c.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(t.audit.c.seq < before)
    if actor is not None:
        query = query.where(t.audit.c.actor == actor)
    return [_entry(row) for row in rows(connection, query)]


def _entry(row: Row) -> Entry:
    at = row["at"].astimezone(UTC).isoformat(timespec="microseconds")
    return Entry(**row | {"at": at})
