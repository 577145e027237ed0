"""Reviews of inspections, the queue for them, and golden samples."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select

from efficientad.station.audit_chain import Actor
from efficientad.station.errors import ConflictError
from efficientad.station.storage import audit
from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import (
    Row,
    first,
    inspection_of,
    inspections,
    list_inspections,
    new_id,
    one,
    put,
    rows,
)

QUEUED: Final = "queued"
REVIEWED: Final = "reviewed"
WITHDRAWN: Final = "withdrawn"
_AT_ONCE: Final = 200
_N_TYPES: Final = 30


def last_verdict(reviews: Sequence[Row]) -> Row | None:
    """Return the review that counts, of some in order: the last not withdrawn one."""
    left: list[Row] = []
    for review in reviews:
        if review["verdict"] != WITHDRAWN:
            left.append(review)
        elif left:
            left.pop()
    return left[-1] if left else None


def add_review(connection: Connection, number: str, review: Row, by: Actor) -> Row:
    """Write a review, and return it with the state of its inspection.

    It has verdict, defect type and note. `withdrawn` takes back the last verdict.

    Raises:
        UnknownError: If there is no such inspection.
        ConflictError: If there is no verdict to take back.
    """
    inspection_of(connection, number)
    is_back = review["verdict"] == WITHDRAWN
    if is_back and last_verdict(reviews_of(connection, number)) is None:
        raise ConflictError("a verdict was needed to take back, there is none")
    row: Row = {"id": new_id(), "inspection": number, **review}
    row |= {"by": by.name, "at": datetime.now(UTC)}
    connection.execute(t.reviews.insert().values(**row))
    counts = last_verdict(reviews_of(connection, number))
    state = QUEUED if counts is None else REVIEWED
    table = t.inspections
    query = table.update().where(table.c.id == number)
    connection.execute(query.values(review_state=state))
    audit.append(connection, by, "review", number, after=audit.state(row, *review))
    return row | {"review_state": state}


def reviews_of(connection: Connection, number: str) -> list[Row]:
    """Return the reviews of an inspection, oldest first."""
    query = select(t.reviews).where(t.reviews.c.inspection == number)
    return rows(connection, query.order_by(t.reviews.c.id))


def n_queued(connection: Connection) -> int:
    """Return the number of inspections that wait for a review."""
    query = select(func.count()).where(t.inspections.c.review_state == QUEUED)
    return int(connection.execute(query).scalar() or 0)


def queued(connection: Connection, before: str | None = None) -> Iterator[Row]:
    """Yield inspections that wait for a review, newest first."""
    while True:
        found = list_inspections(
            connection, limit=_AT_ONCE, before=before, equal={"review_state": QUEUED}
        )
        yield from found
        if len(found) < _AT_ONCE:
            return
        before = found[-1]["id"]


def defect_types(connection: Connection) -> list[str]:
    """Return the thirty most frequent defect types of reviews, in this order."""
    kind = t.reviews.c.defect_type
    query = select(kind).where(kind.is_not(None)).group_by(kind)
    found = connection.execute(query.order_by(func.count().desc()).limit(_N_TYPES))
    return list(found.scalars())


def verdicts(connection: Connection, decision: str | None = None) -> list[Row]:
    """Return reviewed inspections with the verdicts that count, oldest first."""
    query = inspections().where(t.inspections.c.review_state == REVIEWED)
    if decision is not None:
        query = query.where(t.inspections.c.decision == decision)
    by_number: dict[str, list[Row]] = {}
    for review in rows(connection, select(t.reviews).order_by(t.reviews.c.id)):
        by_number.setdefault(review["inspection"], []).append(review)
    return [
        row | {"review": last_verdict(by_number[row["id"]])}
        for row in rows(connection, query.order_by(t.inspections.c.id))
    ]


def last_images(connection: Connection, limit: int) -> list[Row]:
    """Return the newest inspections that have an image, with the verdict of people."""
    i = t.inspections.c
    query = select(i.id, i.decision, i.media_path, i.color)
    query = query.where(i.media_state == "stored").order_by(i.id.desc()).limit(limit)
    known = {row["id"]: row["review"]["verdict"] for row in verdicts(connection)}
    return [row | {"verdict": known.get(row["id"])} for row in rows(connection, query)]


def is_golden(connection: Connection, number: str) -> bool:
    """Return whether a part is a golden sample."""
    query = _golden().where(t.golden.c.inspection == number)
    return first(connection, query) is not None


def list_golden(connection: Connection) -> list[Row]:
    """Return the active golden samples."""
    return rows(connection, _golden().order_by(t.golden.c.inspection))


def _golden() -> Select[Any]:
    return select(t.golden).where(t.golden.c.active)


def set_golden(connection: Connection, number: str, sample: Row, by: Actor) -> None:
    """Write that a part is a golden sample, or that it is none any more.

    The sample has verdict, note, and whether it is active.

    Raises:
        UnknownError: If there is no such inspection.
    """
    inspection_of(connection, number)
    before = first(connection, select(t.golden).where(t.golden.c.inspection == number))
    row = {**sample, "by": by.name}
    put(connection, t.golden, {"inspection": number}, row, {})
    known = before and audit.state(before, *sample)
    audit.append(connection, by, "golden sample", number, before=known, after=sample)


def unset_golden(connection: Connection, number: str, by: Actor) -> None:
    """Write that a golden sample is none now, or raise `UnknownError`."""
    query = _golden().where(t.golden.c.inspection == number)
    sample = one(connection, query, "golden sample of this number")
    gone = {"verdict": sample["verdict"], "note": sample["note"], "active": False}
    set_golden(connection, number, gone, by)
