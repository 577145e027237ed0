"""Jobs that take a while: exports and trials."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, literal, select

from efficientad.station.audit_chain import Actor
from efficientad.station.storage import audit, leases
from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import Row, new_id, one


def add_job(
    connection: Connection, kind: str, subject: str, by: Actor, replica: str
) -> Row:
    """Write that a job has begun, which a replica has a lease of, and return it."""
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
    leases.take(connection, f"job {row['id']}", replica)
    audit.append(connection, by, kind, subject or str(row["id"]))
    return row


def end_job(
    connection: Connection, number: str, state: str, detail: str, result: Any
) -> None:
    """Write how a job has ended: it is `done` or has `failed`."""
    query = t.jobs.update().where(t.jobs.c.id == number)
    connection.execute(query.values(state=state, detail=detail, result=result))
    leases.release(connection, name=f"job {number}")


def end_interrupted(connection: Connection) -> None:
    """Write that running jobs which no replica has a lease of have failed."""
    is_lost = (literal("job ") + t.jobs.c.id).not_in(leases.held(connection))
    query = t.jobs.update().where(t.jobs.c.state == "running", is_lost)
    connection.execute(query.values(state="failed", detail="the station was stopped"))


def job_of(connection: Connection, number: str) -> Row:
    """Return a job by its number, or raise `UnknownError`."""
    query = select(t.jobs).where(t.jobs.c.id == number)
    return one(connection, query, "job of this number")
