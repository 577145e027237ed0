"""The outbox: what sinks still have to be told, written with the inspection."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, and_, func, select

from efficientad.station.storage.queries import Row, rows
from efficientad.station.storage.tables import outbox

_LONGEST_PAUSE: Final = 60.0
_table = outbox.c


def due(connection: Connection, sink: str, now: datetime, limit: int) -> list[Row]:
    """Return what a sink has to be told now, oldest first."""
    is_due = and_(
        _table.sink == sink, _table.delivered_at.is_(None), _table.next_at <= now
    )
    query = select(outbox).where(is_due).order_by(_table.id).limit(limit)
    return rows(connection, query)


def delivered(connection: Connection, numbers: list[str]) -> None:
    """Write that entries have been delivered."""
    query = outbox.update().where(_table.id.in_(numbers))
    connection.execute(query.values(delivered_at=datetime.now(UTC), error=None))


def failed(connection: Connection, entry: Row, error: str, *, is_refused: bool) -> None:
    """Write that an entry has not been delivered.

    A refused one is tried again after growing pauses, and others pass it; otherwise
    the order stays.
    """
    attempts = entry["attempts"] + 1
    values: dict[str, Any] = {"attempts": attempts, "error": error[:2000]}
    if is_refused:
        pause = min(_LONGEST_PAUSE, 2.0 ** min(attempts, 10) / 2)
        values["next_at"] = datetime.now(UTC) + timedelta(seconds=pause)
    connection.execute(outbox.update().where(_table.id == entry["id"]).values(**values))


def n_undelivered(connection: Connection) -> dict[str, int]:
    """Return how many entries each sink still has to be told."""
    query = select(_table.sink, func.count()).where(_table.delivered_at.is_(None))
    return dict(connection.execute(query.group_by(_table.sink)).all())


def forget(connection: Connection, before: datetime) -> None:
    """Remove entries that were delivered before a time."""
    connection.execute(outbox.delete().where(_table.delivered_at < before))
