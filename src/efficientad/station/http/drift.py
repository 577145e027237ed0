"""The drift watch: its state, and its alarms."""

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from efficientad.station.http.problems import documented
from efficientad.station.http.schemas import InspectionNumber, Strict, Text
from efficientad.station.http.security import Operator, TheStation, Viewer
from efficientad.station.storage import alarms, tables
from efficientad.station.storage.queries import newest
from efficientad.station.watching.monitor import Monitor, SourceState
from efficientad.station.watching.statistics import PARTS_PER_FALSE_ALARM

router = APIRouter(tags=["drift"])
_N_ALARMS: Final = 100


class Alarm(BaseModel):
    """An alarm of the drift watch."""

    id: str
    kind: str
    source: str
    since: datetime | None
    raised_at: datetime
    value: float | None
    acknowledged_by: str | None
    note: str | None


class DriftReport(BaseModel):
    """The state of the drift watch."""

    parts_per_false_alarm: int
    sources: list[SourceState]
    alarms: list[Alarm]


class Acknowledgement(Strict):
    """A finding about an alarm."""

    note: Text


def monitor_of(request: Request) -> Monitor:
    """Return the drift watch of an application."""
    monitor: Monitor = request.app.state.monitor
    return monitor


TheMonitor = Annotated[Monitor, Depends(monitor_of)]


@router.get("/drift", response_model=DriftReport)
def get_drift(_client: Viewer, station: TheStation, monitor: TheMonitor) -> Any:
    """Return how far each source is from an alarm, and all alarms."""
    return {
        "parts_per_false_alarm": PARTS_PER_FALSE_ALARM,
        "sources": monitor.states(),
        "alarms": station.database.read(newest, tables.alarms, _N_ALARMS),
    }


@router.post(
    "/alarms/{number}/acknowledge",
    response_model=list[Alarm],
    responses=documented(409),
)
def acknowledge(
    client: Operator,
    station: TheStation,
    monitor: TheMonitor,
    number: InspectionNumber,
    new: Acknowledgement,
) -> Any:
    """Acknowledge an alarm and all others of its source, which begins a new epoch."""
    seen = station.writer.run(alarms.acknowledge, number, client, new.note)
    monitor.renew(seen[0]["source"])
    return seen
