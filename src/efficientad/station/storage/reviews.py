"""Reviews of inspections, the queue for them, and golden samples."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, func, select

from efficientad.station.errors import ConflictError, UnknownError
from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import (
    Row,
    first,
    inspection_of,
    list_inspections,
    new_id,
    rows,
)

QUEUED: Final = "queued"
REVIEWED: Final = "reviewed"
WITHDRAWN: Final = "withdrawn"
_AT_ONCE: Final = 200


def last_verdict(reviews: Sequence[Row]) -> Row | None:
    """Return the review that counts: the last one that is not withdrawn.

    Args:
        reviews: Reviews of an inspection, oldest first.
    """
    left: list[Row] = []
    for review in reviews:
        if review["verdict"] != WITHDRAWN:
            left.append(review)
        elif left:
            left.pop()
    return left[-1] if left else None


def add_review(
    connection: Connection, number: str, review: Row, by: str, at: datetime
) -> Row:
    """Write a review, and return it with the state of its inspection.

    Args:
        connection: Transaction of the writer.
        number: Number of the inspection.
        review: Verdict, defect type and note. `withdrawn` takes back the last verdict.
        by: Person who decided.
        at: Time.

    Raises:
        UnknownError: If there is no such inspection.
        ConflictError: If there is no verdict to take back.
    """
    if inspection_of(connection, number) is None:
        raise UnknownError("there is no inspection of this number")
    is_back = review["verdict"] == WITHDRAWN
    if is_back and last_verdict(reviews_of(connection, number)) is None:
        raise ConflictError("a verdict was needed to take back, there is none")
    row = {"id": new_id(), "inspection": number, **review, "by": by, "at": at}
    connection.execute(t.reviews.insert().values(**row))
    counts = last_verdict(reviews_of(connection, number))
    state = QUEUED if counts is None else REVIEWED
    table = t.inspections
    query = table.update().where(table.c.id == number)
    connection.execute(query.values(review_state=state))
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


def defect_types(connection: Connection, limit: int = 30) -> list[str]:
    """Return the defect types of reviews, the most frequent first."""
    kind = t.reviews.c.defect_type
    query = select(kind).where(kind.is_not(None)).group_by(kind)
    found = connection.execute(query.order_by(func.count().desc()).limit(limit))
    return list(found.scalars())


def verdicts(connection: Connection, decision: str | None = None) -> list[Row]:
    """Return reviewed inspections with the verdicts that count, oldest first.

    Args:
        connection: Reading connection.
        decision: Decision of the station. None: any.
    """
    i, r = t.inspections.c, t.reviews
    columns = (i.id, i.source, i.decision, i.media_path, i.color, i.masked_score)
    query = (
        select(
            *columns,
            i.image_score,
            t.rules.c.threshold,
            *(c.label(f"r_{c.name}") for c in r.c),
        )
        .join(r, r.c.inspection == i.id)
        .join(t.rules, t.rules.c.id == i.rule)
        .where(i.review_state == REVIEWED)
        .order_by(i.id, r.c.id)
    )
    if decision is not None:
        query = query.where(i.decision == decision)
    by_number: dict[str, list[Row]] = {}
    for row in rows(connection, query):
        by_number.setdefault(row["id"], []).append(row)
    found = []
    for each in by_number.values():
        reviews = [{k[2:]: v for k, v in row.items() if k[:2] == "r_"} for row in each]
        counts = last_verdict(reviews)
        assert counts is not None
        plain = {k: v for k, v in each[0].items() if k[:2] != "r_"}
        found.append(plain | {"review": counts})
    return found


def last_images(connection: Connection, limit: int) -> list[Row]:
    """Return the newest inspections that have an image, with the verdict of people."""
    i = t.inspections.c
    query = select(i.id, i.decision, i.media_path, i.color)
    query = query.where(i.media_state == "stored").order_by(i.id.desc()).limit(limit)
    known = {row["id"]: row["review"]["verdict"] for row in verdicts(connection)}
    return [row | {"verdict": known.get(row["id"])} for row in rows(connection, query)]


def golden_of(connection: Connection, number: str) -> Row | None:
    """Return an active golden sample, if the inspection is one."""
    query = select(t.golden).where(t.golden.c.inspection == number, t.golden.c.active)
    return first(connection, query)


def list_golden(connection: Connection) -> list[Row]:
    """Return the active golden samples."""
    query = select(t.golden).where(t.golden.c.active)
    return rows(connection, query.order_by(t.golden.c.inspection))


def set_golden(connection: Connection, sample: dict[str, Any]) -> Row | None:
    """Write a golden sample, or that it is none any more; return it as it was.

    Raises:
        UnknownError: If there is no such inspection.
    """
    number = sample["inspection"]
    if inspection_of(connection, number) is None:
        raise UnknownError("there is no inspection of this number")
    before = first(connection, select(t.golden).where(t.golden.c.inspection == number))
    if before is None:
        connection.execute(t.golden.insert().values(**sample))
    else:
        query = t.golden.update().where(t.golden.c.inspection == number)
        connection.execute(query.values(**sample))
    return before
