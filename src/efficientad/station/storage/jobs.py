"""Jobs that take a while: exports and trials."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from efficientad.station.storage import audit
from efficientad.station.storage import tables as t
from efficientad.station.storage.audit_chain import Actor
from efficientad.station.storage.queries import Row, new_id, one


def add_job(connection: Connection, kind: str, subject: str, by: Actor) -> Row:
    """Write that a job has begun, and return it."""
    row = {
        "id": new_id(),
        "kind": kind,
        "subject": subject,
        "by": by.name,
        "at": datetime.now(UTC),
        "state": "running",
        "detail": None,
        "result": None,
    }
    connection.execute(t.jobs.insert().values(**row))
    audit.append(connection, by, kind, subject or str(row["id"]))
    return row


def end_job(
    connection: Connection, number: str, state: str, detail: str, result: Any
) -> None:
    """Write how a job has ended: it is `done` or has `failed`."""
    query = t.jobs.update().where(t.jobs.c.id == number)
    connection.execute(query.values(state=state, detail=detail, result=result))


def end_interrupted(connection: Connection) -> None:
    """Write that jobs of an earlier process have failed."""
    query = t.jobs.update().where(t.jobs.c.state == "running")
    connection.execute(query.values(state="failed", detail="the station was stopped"))


def job_of(connection: Connection, number: str) -> Row:
    """Return a job by its number, or raise `UnknownError`."""
    query = select(t.jobs).where(t.jobs.c.id == number)
    return one(connection, query, "job of this number")
