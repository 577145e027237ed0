"""Inspections: what is written in one transaction, and how they are found again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, Table, and_, func, select
from uuid_utils import UUID, uuid7

from efficientad.station.errors import UnknownError
from efficientad.station.storage import tables as t

Row = dict[str, Any]
"""A row by the names of its columns."""


def new_id() -> str:
    """Return a new number; later ones sort behind it (UUIDv7)."""
    return str(uuid7())


def first_id(when: datetime) -> str:
    """Return the begin of a number that is not behind any number made from then on."""
    # Before 1970 a minus sign would stand first, which some collations ignore.
    text = f"{max(0, int(when.timestamp() * 1000)):012x}"
    return f"{text[:8]}-{text[8:]}"


def time_of(number: str) -> datetime:
    """Return when a number was made."""
    return datetime.fromtimestamp(UUID(number).timestamp / 1000, UTC)


def rows(connection: Connection, query: Select[Any]) -> list[Row]:
    """Return all rows of a query."""
    return [dict(row) for row in connection.execute(query).mappings()]


def first(connection: Connection, query: Select[Any]) -> Row | None:
    """Return the first row of a query, if there is one."""
    row = connection.execute(query.limit(1)).mappings().first()
    return None if row is None else dict(row)


def one(connection: Connection, query: Select[Any], name: str) -> Row:
    """Return the first row of a query, or raise `UnknownError` with its name."""
    found = first(connection, query)
    if found is None:
        raise UnknownError(f"there is no {name}")
    return found


def put(connection: Connection, table: Table, key: Row, values: Row, new: Row) -> None:
    """Write values into the row of a key; one that is made gets the new ones, too."""
    is_it = and_(*(table.c[name] == value for name, value in key.items()))
    changed = connection.execute(table.update().where(is_it).values(**values))
    if not changed.rowcount:
        connection.execute(table.insert().values(values | key | new))


def newest(
    connection: Connection, table: Table, limit: int | None, /, **equal: str | None
) -> list[Row]:
    """Return the newest rows of a table, whose numbers are those of `new_id`.

    Columns must equal the values given, unless these are None.
    """
    query = select(table).order_by(table.c.id.desc()).limit(limit)
    return rows(connection, _where(query, table, equal))


def _where(
    query: Select[Any], table: Table, equal: Mapping[str, str | None]
) -> Select[Any]:
    return query.where(*(table.c[k] == v for k, v in equal.items() if v is not None))


def insert_inspection(
    connection: Connection,
    inspection: Mapping[str, Any],
    regions: Sequence[Mapping[str, Any]],
    artifacts: Mapping[str, Any],
    sinks: Sequence[str],
) -> Row:
    """Write an inspection with all that belongs to it, and return it as it is read.

    Its regions are numbered in their order, and the sinks of these names are told. If
    another replica has stored an inspection under this key meanwhile, that one is
    returned, and nothing is written.
    """
    source, key = inspection["source"], inspection.get("source_key")
    if key is not None:
        known = inspection_by_key(connection, source, key)
        if known is not None:
            return known
    number = inspection["id"]
    connection.execute(t.inspections.insert().values(**inspection))
    if regions:
        connection.execute(
            t.regions.insert(),
            [{"inspection": number, "n": n, **each} for n, each in enumerate(regions)],
        )
    connection.execute(t.artifacts.insert().values(inspection=number, **artifacts))
    found = inspection_of(connection, number)
    if sinks:
        payload = {k: v for k, v in as_json(found).items() if k != "media_path"}
        at = inspection["received_at"]
        empty = {"attempts": 0, "next_at": at, "payload": payload}
        connection.execute(
            t.outbox.insert(),
            [
                {"id": new_id(), "inspection": number, "sink": sink, **empty}
                for sink in sinks
            ],
        )
    return found


def as_json(row: Mapping[str, Any]) -> Row:
    """Return a row as JSON has it: times as text."""
    plain: Row = json.loads(json.dumps(row, default=_text))
    return plain


def _text(value: Any) -> str:
    assert isinstance(value, datetime)
    return value.isoformat().replace("+00:00", "Z")


def inspections() -> Select[Any]:
    """Return the query of all inspections, with the thresholds of their rules."""
    rule = t.inspections.c.rule == t.rules.c.id
    return select(t.inspections, t.rules.c.threshold).join(t.rules, rule)


def _with_regions(connection: Connection, found: list[Row]) -> list[Row]:
    numbers = [row["id"] for row in found]
    query = select(t.regions).where(t.regions.c.inspection.in_(numbers))
    by_number: dict[str, list[Row]] = {number: [] for number in numbers}
    for region in rows(connection, query.order_by(t.regions.c.n)):
        by_number[region.pop("inspection")].append(region)
    return [{**row, "regions": by_number[row["id"]]} for row in found]


def inspection_of(connection: Connection, number: str) -> Row:
    """Return an inspection with regions and threshold, or raise `UnknownError`."""
    query = inspections().where(t.inspections.c.id == number)
    found = one(connection, query, "inspection of this number")
    return _with_regions(connection, [found])[0]


def inspection_by_key(connection: Connection, source: str, key: str) -> Row | None:
    """Return the inspection that a source has sent under a key, if there is one."""
    table = t.inspections.c
    is_it = and_(table.source == source, table.source_key == key)
    found = rows(connection, inspections().where(is_it))
    return next(iter(_with_regions(connection, found)), None)


def list_inspections(
    connection: Connection,
    *,
    limit: int,
    before: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    equal: Mapping[str, str | None],
) -> list[Row]:
    """Return inspections, newest first.

    They are older than the number `before`, were received from `since` on and before
    `until`, and equal the values of columns given, unless these are None.
    """
    table = t.inspections.c
    query = inspections().order_by(table.id.desc()).limit(limit)
    query = _where(query, t.inspections, equal)
    if before is not None:
        query = query.where(table.id < before)
    if since is not None:
        query = query.where(table.received_at >= since)
    if until is not None:
        query = query.where(table.received_at < until)
    return _with_regions(connection, rows(connection, query))


def artifact_of(connection: Connection, number: str, name: str) -> bytes | None:
    """Return the grids or the thumbnail of an inspection, if it has them.

    Raises:
        UnknownError: If there is no inspection of this number.
    """
    query = select(t.artifacts.c[name]).where(t.artifacts.c.inspection == number)
    found: bytes | None = one(connection, query, "inspection of this number")[name]
    return found


def last_grids(
    connection: Connection, model: str, limit: int
) -> Iterator[tuple[Row, bytes]]:
    """Yield the last inspections of a model that have grids, newest first."""
    i, a = t.inspections.c, t.artifacts.c
    columns = (i.id, i.decision, i.image_score, i.height, i.width)
    query = (
        select(*columns, a.grids)
        .join(t.artifacts, a.inspection == i.id)
        .where(i.model == model, a.grids.is_not(None))
        .order_by(i.id.desc())
        .limit(limit)
    )
    for row in connection.execute(query).mappings():
        yield dict(row), row["grids"]


def last_stored(connection: Connection) -> datetime | None:
    """Return when the newest inspection was received."""
    query = select(t.inspections.c.received_at).order_by(t.inspections.c.id.desc())
    found: datetime | None = connection.execute(query.limit(1)).scalar()
    return found


def counts(connection: Connection, since: datetime) -> dict[str, int]:
    """Return the number of inspections of each decision since a time."""
    table = t.inspections.c
    query = select(table.decision, func.count()).where(table.received_at >= since)
    return dict(connection.execute(query.group_by(table.decision)).all())


def add_incident(connection: Connection, kind: str, at: datetime, detail: str) -> Row:
    """Write an incident, and return it; one of the last minute is counted again."""
    table = t.incidents
    detail = detail[:2000]
    is_same = and_(
        table.c.kind == kind,
        table.c.detail == detail,
        table.c.at > at - timedelta(minutes=1),
    )
    known = first(connection, select(table).where(is_same).order_by(table.c.id.desc()))
    if known is not None:
        known["count"] += 1
        query = table.update().where(table.c.id == known["id"])
        connection.execute(query.values(count=known["count"]))
        return known
    row = {"id": new_id(), "at": at, "kind": kind, "count": 1, "detail": detail}
    connection.execute(table.insert().values(**row))
    return row
