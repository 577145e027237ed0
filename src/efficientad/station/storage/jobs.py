"""Jobs that take a while: exports and trials."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import Row, first, new_id, rows


def add_job(
    connection: Connection, kind: str, subject: str, by: str, at: datetime
) -> Row:
    """Write that a job has begun, and return it."""
    row = {
        "id": new_id(),
        "kind": kind,
        "subject": subject,
        "by": by,
        "at": at,
        "state": "running",
        "detail": None,
        "result": None,
    }
    connection.execute(t.jobs.insert().values(**row))
    return row


def end_job(
    connection: Connection, number: str, state: str, detail: str, result: Any = None
) -> None:
    """Write how a job has ended: it is `done` or has `failed`."""
    query = t.jobs.update().where(t.jobs.c.id == number)
    connection.execute(query.values(state=state, detail=detail, result=result))


def end_interrupted(connection: Connection) -> None:
    """Write that jobs of an earlier process have failed."""
    query = t.jobs.update().where(t.jobs.c.state == "running")
    connection.execute(query.values(state="failed", detail="the station was stopped"))


def job_of(connection: Connection, number: str) -> Row | None:
    """Return a job, if there is one of this number."""
    return first(connection, select(t.jobs).where(t.jobs.c.id == number))


def list_jobs(connection: Connection, kind: str, subject: str, limit: int) -> list[Row]:
    """Return the newest jobs of a kind and subject."""
    query = select(t.jobs).where(t.jobs.c.kind == kind, t.jobs.c.subject == subject)
    return rows(connection, query.order_by(t.jobs.c.id.desc()).limit(limit))
