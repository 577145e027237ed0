"""Health, metrics, sources, sessions and the state of the station."""

import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response

import efficientad
from efficientad.station.config import shown
from efficientad.station.http.problems import ProblemError, documented
from efficientad.station.http.schemas import (
    Health,
    Name,
    NewSession,
    Session,
    Source,
    SystemState,
    Triggered,
)
from efficientad.station.http.security import (
    SESSION_COOKIE,
    AnyClient,
    Client,
    Operator,
    TheStation,
    Viewer,
    is_secure,
    new_token,
    token_hash,
)
from efficientad.station.prediction.pipeline import Station
from efficientad.station.sources.camera import CameraSource
from efficientad.station.storage import audit, outbox, queries, registry
from efficientad.station.storage.audit_chain import Action

outside = APIRouter(tags=["health"])
router = APIRouter(tags=["system"])

_SESSION_HOURS: Final = 12
_N_INCIDENTS: Final = 50


@outside.get("/health/live")
async def live() -> dict[str, bool]:
    """Answer: the server runs."""
    return {"live": True}


@outside.get("/health/ready", responses={503: {"model": Health}})
async def ready(station: TheStation, response: Response) -> Health:
    """Answer whether images are taken; 503 if not, with the reason."""
    problem = station.problem
    if problem is not None:
        response.status_code = 503
    return Health(ready=problem is None, problem=problem)


@outside.get("/metrics", response_class=Response)
async def metrics(station: TheStation) -> Response:
    """Return the metrics for Prometheus."""
    return Response(station.metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/system", response_model=SystemState, responses=documented())
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
            "incidents": queries.list_incidents(connection, _N_INCIDENTS),
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
    """Let a source rest."""
    return _set_state(station, client, name, "paused")


@router.post(
    "/sources/{name}/resume",
    status_code=202,
    response_model=list[Source],
    responses=documented(409),
)
def resume(client: Operator, station: TheStation, name: Name) -> Any:
    """Let a source go on."""
    return _set_state(station, client, name, "running")


@router.post(
    "/sources/{name}/trigger",
    status_code=202,
    responses=documented(409),
)
def trigger(_client: AnyClient, request: Request, name: Name) -> Triggered:
    """Inspect the next frame of a camera in the mode `trigger`."""
    camera: CameraSource | None = request.app.state.cameras.get(name)
    if camera is None:
        raise ProblemError(404, "there is no camera of this name")
    return Triggered(inspection=camera.trigger())


def _set_state(
    station: Station, client: Client, name: str, state: str
) -> list[queries.Row]:
    with station.database.connect() as connection:
        if name not in {row["name"] for row in registry.list_sources(connection)}:
            raise ProblemError(404, "there is no source of this name")
    action = Action(
        actor=client.name, role=client.role, action=state, subject=name, after=state
    )
    call = partial(registry.set_source_state, name=name, state=state)
    station.writer.run(audit.recorded(call, lambda _: action))
    station.tell("source", {"name": name, "state": state})
    with station.database.connect() as connection:
        return registry.list_sources(connection)


@router.get("/session", responses=documented())
async def get_session(client: AnyClient) -> Session:
    """Return who is signed in."""
    return Session(name=client.name, role=client.role)


@router.post("/session", responses=documented())
def post_session(
    request: Request, response: Response, station: TheStation, new: NewSession
) -> Session:
    """Exchange a token for a cookie that only the browser knows."""
    now = datetime.now(UTC)
    with station.database.connect() as connection:
        row = registry.token_of(connection, token_hash(new.token), now)
    if row is None:
        raise ProblemError(401, "a valid token is needed")
    secret, digest = new_token()
    expires_at = now + timedelta(hours=_SESSION_HOURS)
    station.writer.run(
        partial(
            registry.add_session,
            digest=digest,
            token=row["id"],
            expires_at=expires_at,
        )
    )
    response.set_cookie(
        SESSION_COOKIE,
        secret,
        max_age=_SESSION_HOURS * 3600,
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )
    return Session(name=row["name"], role=row["role"])


@router.delete("/session", status_code=204, responses=documented())
def delete_session(request: Request, response: Response, station: TheStation) -> None:
    """End the session."""
    digest = token_hash(request.cookies.get(SESSION_COOKIE, ""))
    now = datetime.now(UTC)
    station.writer.run(partial(registry.remove_session, digest=digest, now=now))
    response.delete_cookie(SESSION_COOKIE)
