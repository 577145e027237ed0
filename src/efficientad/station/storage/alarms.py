"""Epochs of the drift watch, and the alarms that it raises."""

from typing import Any

from sqlalchemy import Connection, func, select

from efficientad.station.audit_chain import Actor
from efficientad.station.errors import ConflictError
from efficientad.station.storage import audit
from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import Row, new_id, one, rows

_ALL = "all"


def newest_epochs(connection: Connection, replica: str) -> list[Row]:
    """Return the newest epoch of each source and model of a replica."""
    query = select(t.drift_states).where(t.drift_states.c.statistic == _ALL)
    found = rows(connection, query.order_by(t.drift_states.c.epoch))
    own = (row for row in found if row["state"].get("replica", replica) == replica)
    return list({(row["source"], row["model"]): row for row in own}.values())


def begin_epoch(connection: Connection, first: Row) -> None:
    """Write that a new epoch of a source and model begins with a part."""
    source, model = first["source"], first["model"]
    state = {name: first[name] for name in ("rule", "replica")} | {"first": first["id"]}
    table = t.drift_states.c
    query = select(func.max(table.epoch))
    query = query.where(table.source == source, table.model == model)
    epoch = (connection.execute(query).scalar() or 0) + 1
    row = {"source": source, "model": model, "statistic": _ALL, "state": state}
    connection.execute(t.drift_states.insert().values(**row, epoch=epoch))


def parts_since(
    connection: Connection, epoch: Row, replica: str, limit: int
) -> list[Row]:
    """Return what the watch compares of an epoch's scored parts, in order."""
    i, state = t.inspections.c, epoch["state"]
    columns = (i.id, i.received_at, i.image_score, i.decision, i.sha256, i.source)
    query = select(*columns, i.model, i.rule, i.brightness, i.contrast, i.sharpness)
    query = query.where(i.source == epoch["source"], i.rule == state["rule"])
    query = query.where(i.replica == replica, i.id >= state["first"])
    query = query.where(i.image_score.is_not(None)).order_by(i.id).limit(limit)
    return rows(connection, query)


def raise_alarm(connection: Connection, alarm: dict[str, Any]) -> Row:
    """Write an alarm, and return it."""
    row = {"id": new_id(), "acknowledged_by": None, "note": None, **alarm}
    connection.execute(t.alarms.insert().values(**row))
    return row


def open_alarms(connection: Connection, source: str) -> list[Row]:
    """Return the alarms of a source that nobody has acknowledged."""
    c = t.alarms.c
    query = select(t.alarms).where(c.source == source, c.acknowledged_by.is_(None))
    return rows(connection, query)


def acknowledge(connection: Connection, number: str, by: Actor, note: str) -> list[Row]:
    """Write that somebody has seen an alarm and all others of its source; return them.

    Raises:
        UnknownError: If there is no such alarm.
        ConflictError: If it was acknowledged before.
    """
    table = t.alarms
    query = select(table).where(table.c.id == number)
    alarm = one(connection, query, "alarm of this number")
    seen = open_alarms(connection, alarm["source"])
    numbers = [each["id"] for each in seen]
    if number not in numbers:
        raise ConflictError(
            f"an alarm is acknowledged once, {alarm['acknowledged_by']} has done so"
        )
    change = {"acknowledged_by": by.name, "note": note}
    connection.execute(table.update().where(table.c.id.in_(numbers)).values(**change))
    kinds = [each["kind"] for each in seen]
    audit.append(
        connection, by, "acknowledge", alarm["source"], after=kinds, reason=note
    )
    return [each | change for each in seen]
