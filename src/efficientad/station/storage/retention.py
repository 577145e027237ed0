"""Removal of old images and rows. Queued, reviewed and golden ones stay, always."""

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


def remove_old(store: Store, retention: Retention, now: datetime) -> None:
    """Remove what retention names."""
    for is_normal, days, gigabytes in (
        (True, retention.normal_days, retention.normal_gb),
        (False, retention.anomalous_days, retention.anomalous_gb),
    ):
        _remove(store, now - timedelta(days=days), is_normal=is_normal)
        stored = store.database.read(stored_bytes, is_normal=is_normal)
        excess = stored - gigabytes * _GIGABYTE
        _remove(store, None, is_normal=is_normal, n_bytes=excess)
    run, old = store.writer.run, now - timedelta(days=retention.row_days)
    while run(remove_rows, old, _AT_ONCE) == _AT_ONCE:
        pass
    run(outbox.forget, now - timedelta(days=_OUTBOX_DAYS))


def _remove(
    store: Store,
    before: datetime | None,
    *,
    is_normal: bool,
    n_bytes: float = float("inf"),
) -> None:
    """Remove images before a time, oldest first, until so many bytes are free.

    The row says so first: a row without file would be an incident.
    """
    while n_bytes > 0:
        found = store.database.read(
            removable, is_normal=is_normal, before=before, limit=_AT_ONCE
        )
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


def removable(
    connection: Connection, *, is_normal: bool, before: datetime | None, limit: int
) -> list[Row]:
    """Return stored images that retention may remove, oldest first.

    Queued, reviewed and golden ones are never among them.
    """
    table = t.inspections.c
    golden = select(t.golden.c.inspection)
    same = table.decision == "normal" if is_normal else table.decision != "normal"
    query = (
        select(table.id, table.media_path, table.media_bytes)
        .where(
            table.media_state == "stored",
            same,
            table.review_state.is_(None),
            table.id.not_in(golden),
        )
        .order_by(table.id)
        .limit(limit)
    )
    if before is not None:
        query = query.where(table.received_at < before)
    return rows(connection, query)


def stored_bytes(connection: Connection, *, is_normal: bool) -> int:
    """Return the bytes of stored images with or without the decision normal."""
    table = t.inspections.c
    same = table.decision == "normal" if is_normal else table.decision != "normal"
    query = select(func.sum(table.media_bytes))
    found = connection.execute(query.where(table.media_state == "stored", same))
    return int(found.scalar() or 0)


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
