"""Removal of old images of normal parts, and of old rows.

Queued, reviewed and golden parts always stay. All parts that are not normal are queued.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final

from sqlalchemy import Connection, func, select

from efficientad.station.config import Retention
from efficientad.station.storage import outbox
from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import Row, first_id, rows
from efficientad.station.storage.store import Store

_AT_ONCE: Final = 200
_GIGABYTE: Final = 1e9
_OUTBOX_DAYS: Final = 7
_MINUTE: Final = timedelta(minutes=1)
_IS_STORED_AND_NORMAL: Final = (
    t.inspections.c.media_state == "stored",
    t.inspections.c.decision == "normal",
)


def remove_old(store: Store, retention: Retention, now: datetime) -> None:
    """Remove what retention names."""
    _remove(store, now - timedelta(days=retention.normal_days))
    stored = store.database.read(normal_bytes)
    _remove(store, None, stored - retention.normal_gb * _GIGABYTE)
    run, old = store.writer.run, now - timedelta(days=retention.row_days)
    while run(remove_rows, old, _AT_ONCE) == _AT_ONCE:
        pass
    run(outbox.forget, now - timedelta(days=_OUTBOX_DAYS))


def _remove(
    store: Store, before: datetime | None, n_bytes: float = float("inf")
) -> None:
    """Remove images before a time, oldest first, until so many bytes are free.

    The row says so first: a row without file would be an incident.
    """
    while n_bytes > 0:
        found = store.database.read(removable, before, _AT_ONCE)
        freed = accumulate((row["media_bytes"] for row in found), initial=0)
        found = [row for row, n in zip(found, freed, strict=False) if n < n_bytes]
        if not found:
            break
        store.writer.run(mark_removed, [row["id"] for row in found])
        for row in found:
            store.media.remove(row["media_path"])
            n_bytes -= row["media_bytes"]


def places_of_minute(connection: Connection, minute: str) -> dict[str, str]:
    """Return the places and numbers of stored images of a minute, by its folder."""
    table = t.inspections.c
    begin = datetime.strptime(f"{minute[-16:]} +0000", "%Y-%m-%d/%H/%M %z")
    query = select(table.media_path, table.id).where(
        # An identifier begins with its time, which may be that of the minute before.
        table.id >= first_id(begin - _MINUTE),
        table.id < first_id(begin + 2 * _MINUTE),
        table.media_state == "stored",
        table.media_path.startswith(f"{minute}/"),
    )
    return dict(connection.execute(query).all())


def removable(connection: Connection, before: datetime | None, limit: int) -> list[Row]:
    """Return stored images of normal parts that may be removed, oldest first.

    Queued, reviewed and golden ones are never among them.
    """
    table = t.inspections.c
    query = (
        select(table.id, table.media_path, table.media_bytes)
        .where(
            *_IS_STORED_AND_NORMAL,
            table.review_state.is_(None),
            table.id.not_in(select(t.golden.c.inspection)),
        )
        .order_by(table.id)
        .limit(limit)
    )
    if before is not None:
        query = query.where(table.received_at < before)
    return rows(connection, query)


def normal_bytes(connection: Connection) -> int:
    """Return the bytes of stored images of normal parts."""
    query = select(func.sum(t.inspections.c.media_bytes)).where(*_IS_STORED_AND_NORMAL)
    return int(connection.execute(query).scalar() or 0)


def mark_removed(connection: Connection, numbers: Sequence[str]) -> None:
    """Write that the images of inspections are gone."""
    table = t.inspections
    query = table.update().where(table.c.id.in_(numbers))
    connection.execute(query.values(media_state="removed", media_path=None))


def remove_rows(connection: Connection, before: datetime, limit: int) -> int:
    """Remove old inspections, and return how many; those that matter stay."""
    table = t.inspections
    undelivered = select(t.outbox.c.inspection).where(t.outbox.c.delivered_at.is_(None))
    old = (
        select(table.c.id)
        .where(
            table.c.id < first_id(before),
            table.c.media_state != "stored",
            table.c.review_state.is_(None),
            table.c.id.not_in(select(t.golden.c.inspection)),
            table.c.id.not_in(undelivered),
        )
        .limit(limit)
    )
    return connection.execute(table.delete().where(table.c.id.in_(old))).rowcount
