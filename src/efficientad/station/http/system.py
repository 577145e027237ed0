"""Health, metrics, sources, sessions and the state of the station."""

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

import efficientad
from efficientad.station.audit_chain import Actor
from efficientad.station.config import shown
from efficientad.station.http.problems import documented
from efficientad.station.http.schemas import (
    Health,
    Name,
    NewSession,
    Source,
    SystemState,
    Triggered,
)
from efficientad.station.http.security import (
    SESSION_COOKIE,
    AnyClient,
    Operator,
    TheStation,
    Viewer,
    is_secure,
    new_token,
    token_hash,
    token_row,
)
from efficientad.station.sources.camera import CameraSource
from efficientad.station.storage import outbox, queries, registry, tables

outside = APIRouter(tags=["health"])
router = APIRouter(tags=["system"])

_SESSION_HOURS: Final = 12
_N_INCIDENTS: Final = 50


@outside.get("/health/live")
async def live() -> dict[str, bool]:
    """Return that the server runs."""
    return {"live": True}


@outside.get("/health/ready", responses={503: {"model": Health}})
async def ready(station: TheStation, response: Response) -> Health:
    """Return whether images are taken; 503 if not, with the reason."""
    problem = station.problem
    if problem is not None:
        response.status_code = 503
    return Health(ready=problem is None, problem=problem)


@outside.get("/metrics", response_class=Response)
async def metrics(station: TheStation) -> Response:
    """Return the metrics for Prometheus."""
    return Response(station.metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/system", response_model=SystemState)
def system(_client: Viewer, station: TheStation) -> Any:
    """Return the state of the station."""
    now = datetime.now(UTC)
    midnight = now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    usage = shutil.disk_usage(station.config.data)
    with station.database.connect() as connection:
        found = {
            "last_stored": queries.last_stored(connection),
            "counts_today": queries.counts(connection, midnight),
            "undelivered": outbox.n_undelivered(connection),
            "sources": registry.list_sources(connection),
            "incidents": queries.newest(connection, tables.incidents, _N_INCIDENTS),
        }
    return found | {
        "name": station.config.name,
        "version": efficientad.__version__,
        "problem": station.problem,
        "started_at": station.started_at,
        "now": now,
        "queue_length": station.admission.n_taken,
        "free_bytes": usage.free,
        "total_bytes": usage.total,
        "settings": shown(station.config),
    }


@router.post(
    "/sources/{name}/pause",
    status_code=202,
    response_model=list[Source],
    responses=documented(409),
)
def pause(client: Operator, station: TheStation, name: Name) -> Any:
    """Pause a source."""
    found = station.writer.run(registry.set_source_state, name, "paused", client)
    station.tell("source", {"name": name, "state": "paused"})
    return found


@router.post(
    "/sources/{name}/resume",
    status_code=202,
    response_model=list[Source],
    responses=documented(409),
)
def resume(client: Operator, station: TheStation, name: Name) -> Any:
    """Resume a source."""
    found = station.writer.run(registry.set_source_state, name, "running", client)
    station.tell("source", {"name": name, "state": "running"})
    return found


@router.post("/sources/{name}/trigger", status_code=202, responses=documented(409))
def trigger(_client: AnyClient, request: Request, name: Name) -> Triggered:
    """Inspect the next frame of a camera in the mode `trigger`."""
    camera: CameraSource | None = request.app.state.cameras.get(name)
    if camera is None:
        raise HTTPException(404, "there is no camera of this name")
    return Triggered(inspection=camera.trigger())


@router.get("/session")
async def get_session(client: AnyClient) -> Actor:
    """Return who is signed in."""
    return client


@router.post("/session")
def post_session(
    request: Request, response: Response, station: TheStation, new: NewSession
) -> Actor:
    """Exchange a token for a cookie that only the browser knows."""
    row = token_row(station, new.token)
    if row is None:
        raise HTTPException(401, "a valid token is needed")
    secret, digest = new_token()
    expires_at = datetime.now(UTC) + timedelta(hours=_SESSION_HOURS)
    station.writer.run(registry.add_session, digest, row["id"], expires_at)
    response.set_cookie(
        SESSION_COOKIE,
        secret,
        max_age=_SESSION_HOURS * 3600,
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )
    return Actor(row["name"], row["role"])


@router.delete("/session", status_code=204)
def delete_session(request: Request, response: Response, station: TheStation) -> None:
    """End the session."""
    digest = token_hash(request.cookies.get(SESSION_COOKIE, ""))
    station.writer.run(registry.remove_session, digest)
    response.delete_cookie(SESSION_COOKIE)
