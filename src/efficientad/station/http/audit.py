"""The audit log: read, saved as CSV, verified."""

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from efficientad.names import as_cell
from efficientad.station.audit_chain import Entry, canonical_json, first_fault
from efficientad.station.http.schemas import Line
from efficientad.station.http.security import Engineer, TheStation, Viewer
from efficientad.station.prediction.pipeline import Station
from efficientad.station.storage import audit

router = APIRouter(tags=["audit"])
_LAST: Final = 2**31 - 1


class AuditList(BaseModel):
    """Entries, newest first."""

    items: list[Entry]
    next: int | None
    """Value of `before` for earlier ones."""


class Verification(BaseModel):
    """Whether the chain is whole."""

    n: int
    hash: str
    """Hash of the last entry, to compare with the one in the log."""
    fault: str | None


@router.get("/audit")
def get_entries(
    _client: Viewer,
    station: TheStation,
    actor: Annotated[Line | None, Query()] = None,
    before: Annotated[int | None, Query(ge=1, le=_LAST)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditList:
    """List what was done, newest first."""
    items = station.database.read(
        audit.list_entries, limit=limit, before=before, actor=actor or None
    )
    is_more = len(items) == limit and items[-1].seq > 1
    return AuditList(items=items, next=items[-1].seq if is_more else None)


@router.get("/audit/verify")
def verify(_client: Viewer, station: TheStation) -> Verification:
    """Compute all hashes again."""
    with station.database.connect() as connection:
        head = audit.head(connection)
        fault = first_fault(audit.entries(connection), head)
    return Verification(n=head.seq, hash=head.hash, fault=fault)


@router.get("/audit.csv")
def as_csv(_client: Engineer, station: TheStation) -> StreamingResponse:
    """Return the whole log as a table."""
    name = f'attachment; filename="audit-{station.config.name}.csv"'
    headers = {"Content-Disposition": name}
    return StreamingResponse(_lines(station), 200, headers, "text/csv; charset=utf-8")


def _lines(station: Station) -> Iterator[str]:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(field.name for field in fields(Entry))
    with station.database.connect() as connection:
        for entry in audit.entries(connection):
            writer.writerow([_cell(value) for value in asdict(entry).values()])
            yield file.getvalue()
            file.seek(0)
            file.truncate()
    yield file.getvalue()


def _cell(value: Any) -> Any:
    """Return a value for a table: states as JSON, and no formula."""
    if value is None or isinstance(value, str | int):
        return as_cell(value)
    return canonical_json(value).decode()
