"""The drift watch: its state, and its alarms."""

from datetime import datetime
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from efficientad.station.http.problems import documented
from efficientad.station.http.reviews import action_of
from efficientad.station.http.schemas import InspectionNumber, Text, _Strict
from efficientad.station.http.security import Operator, TheStation, Viewer
from efficientad.station.storage import alarms, audit
from efficientad.station.storage.audit_chain import Action
from efficientad.station.storage.queries import Row
from efficientad.station.watching.monitor import Monitor
from efficientad.station.watching.statistics import PARTS_PER_FALSE_ALARM

router = APIRouter(tags=["drift"])


class Statistic(BaseModel):
    """Evidence that a statistic has changed."""

    statistic: str
    value: float
    """Shiryaev-Roberts statistic; without drift its mean is the number of parts."""
    level: float
    """Value at which an alarm is raised."""
    n_parts: int
    since: datetime | None
    """Likeliest time of the change, if there was one."""
    history: list[tuple[float, float]]
    """Time in seconds, and the logarithm of the value to the base 10."""


class SourceDrift(BaseModel):
    """The watch of one source."""

    source: str
    model: str
    rule: str
    since: datetime
    n_parts: int
    days_per_false_alarm: float | None
    statistics: list[Statistic]


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
    sources: list[SourceDrift]
    alarms: list[Alarm]


class Acknowledgement(_Strict):
    """A finding about an alarm."""

    note: Text


def monitor_of(request: Request) -> Monitor:
    """Return the drift watch of an application."""
    monitor: Monitor = request.app.state.monitor
    return monitor


@router.get("/drift", responses=documented())
def get_drift(_client: Viewer, station: TheStation, request: Request) -> DriftReport:
    """Return how far each source is from an alarm, and all alarms."""
    states = monitor_of(request).states()
    with station.database.connect() as connection:
        for state in states:
            for each in state["statistics"]:
                if each["since"] is not None:
                    each["since"] = alarms.time_of(connection, each["since"])
        found = alarms.list_alarms(connection)
    return DriftReport.model_validate(
        {
            "parts_per_false_alarm": PARTS_PER_FALSE_ALARM,
            "sources": states,
            "alarms": found,
        }
    )


@router.post("/alarms/{number}/acknowledge", responses=documented(409))
def acknowledge(
    client: Operator,
    station: TheStation,
    request: Request,
    number: InspectionNumber,
    new: Acknowledgement,
) -> list[Alarm]:
    """Acknowledge an alarm and all others of its source, which begins a new epoch."""
    write = partial(alarms.acknowledge, number=number, by=client.name, note=new.note)

    def action(seen: list[Row]) -> Action:
        after: Any = [each["kind"] for each in seen]
        source = seen[0]["source"]
        return action_of(client, "acknowledge", source, after=after, reason=new.note)

    seen = station.writer.run(audit.recorded(write, action))
    monitor_of(request).renew(seen[0]["source"])
    return [Alarm.model_validate(each) for each in seen]
