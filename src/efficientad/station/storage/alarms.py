"""Epochs of the drift watch, and the alarms that it raises."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from efficientad.station.errors import ConflictError, UnknownError
from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import Row, first, new_id, rows

_ALL = "all"


def newest_epochs(connection: Connection) -> list[Row]:
    """Return the newest epoch of each source and model."""
    query = select(t.drift_states).where(t.drift_states.c.statistic == _ALL)
    found = rows(connection, query.order_by(t.drift_states.c.epoch))
    return list({(row["source"], row["model"]): row for row in found}.values())


def begin_epoch(
    connection: Connection, source: str, model: str, state: dict[str, Any]
) -> int:
    """Write that a new epoch begins, and return its number.

    Args:
        connection: Transaction of the writer.
        source: Source.
        model: SHA-256 of its model.
        state: First part, its time, and the rule.
    """
    table = t.drift_states.c
    is_it = (table.source == source, table.model == model)
    query = select(table.epoch).where(*is_it).order_by(table.epoch.desc())
    last = connection.execute(query.limit(1)).scalar()
    epoch = 1 if last is None else int(last) + 1
    row = {"source": source, "model": model, "statistic": _ALL, "state": state}
    connection.execute(t.drift_states.insert().values(**row, epoch=epoch))
    return epoch


def parts_since(
    connection: Connection, source: str, rule: str, number: str, limit: int
) -> list[Row]:
    """Return what the watch compares of the parts from one on, in their order."""
    i = t.inspections.c
    columns = (i.id, i.received_at, i.image_score, i.decision, i.sha256, i.source)
    query = (
        select(*columns, i.model, i.rule, i.brightness, i.contrast, i.sharpness)
        .where(i.source == source, i.rule == rule, i.id >= number)
        .order_by(i.id)
        .limit(limit)
    )
    return rows(connection, query)


def time_of(connection: Connection, number: str) -> datetime | None:
    """Return when a part was received."""
    query = select(t.inspections.c.received_at).where(t.inspections.c.id == number)
    found: datetime | None = connection.execute(query).scalar()
    return found


def raise_alarm(connection: Connection, alarm: dict[str, Any]) -> Row:
    """Write an alarm, and return it."""
    row = {"id": new_id(), "acknowledged_by": None, "note": None, **alarm}
    connection.execute(t.alarms.insert().values(**row))
    return row


def list_alarms(connection: Connection, limit: int = 100) -> list[Row]:
    """Return the newest alarms."""
    query = select(t.alarms).order_by(t.alarms.c.id.desc())
    return rows(connection, query.limit(limit))


def open_alarms(connection: Connection, source: str) -> list[Row]:
    """Return the alarms of a source that nobody has acknowledged."""
    c = t.alarms.c
    query = select(t.alarms).where(c.source == source, c.acknowledged_by.is_(None))
    return rows(connection, query)


def acknowledge(connection: Connection, number: str, by: str, note: str) -> list[Row]:
    """Write that somebody has seen an alarm, and all others of its source.

    Returns:
        These alarms.

    Raises:
        UnknownError: If there is no such alarm.
        ConflictError: If it was acknowledged before.
    """
    table = t.alarms
    alarm = first(connection, select(table).where(table.c.id == number))
    if alarm is None:
        raise UnknownError("there is no alarm of this number")
    seen = open_alarms(connection, alarm["source"])
    numbers = [each["id"] for each in seen]
    if number not in numbers:
        raise ConflictError(
            f"an alarm is acknowledged once, {alarm['acknowledged_by']} has done so"
        )
    query = table.update().where(table.c.id.in_(numbers))
    connection.execute(query.values(acknowledged_by=by, note=note))
    return [each | {"acknowledged_by": by, "note": note} for each in seen]
