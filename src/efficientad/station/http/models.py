"""Models, rules and activations."""

from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from efficientad.station.http.problems import ProblemError, documented
from efficientad.station.http.schemas import (
    Activation,
    Line,
    Model,
    NewActivation,
    NewRule,
    Rule,
    Sha256,
)
from efficientad.station.http.security import Client, Engineer, TheStation, Viewer
from efficientad.station.prediction.changes import By
from efficientad.station.storage import registry
from efficientad.station.storage.queries import new_id

router = APIRouter(tags=["models"])
_MAX_MODEL: Final = 2**30


@router.get("/models", response_model=list[Model], responses=documented())
def get_models(_client: Viewer, station: TheStation) -> Any:
    """List the model files that the station has."""
    with station.database.connect() as connection:
        return registry.list_models(connection)


@router.post(
    "/models",
    status_code=201,
    response_model=Model,
    responses=documented(413),
    max_body_size=_MAX_MODEL,
)
async def post_model(
    request: Request,
    client: Engineer,
    station: TheStation,
    name: Annotated[Line, Query()],
    suffix: Annotated[Literal[".ead", ".onnx"], Query()] = ".ead",
) -> Any:
    """Add the model file in the body; it is opened once, and not used yet."""
    place = station.media.incoming(new_id()).with_suffix(suffix)
    try:
        with place.open("wb") as file:
            async for chunk in request.stream():
                await run_in_threadpool(file.write, chunk)
        call = partial(station.lineup.add, place, name, _by(client))
        return await run_in_threadpool(call)
    except OSError as error:
        raise station.media.failed(error) from error
    finally:
        place.unlink(missing_ok=True)


@router.get("/rules", response_model=list[Rule], responses=documented())
def get_rules(
    _client: Viewer,
    station: TheStation,
    model: Annotated[Sha256 | None, Query()] = None,
) -> Any:
    """List rules, newest first."""
    with station.database.connect() as connection:
        return registry.list_rules(connection, model)


@router.post("/rules", status_code=201, response_model=Rule, responses=documented(409))
def post_rule(client: Engineer, station: TheStation, rule: NewRule) -> Any:
    """Add a rule; it is used once it is activated."""
    with station.database.connect() as connection:
        if registry.model_of(connection, rule.model) is None:
            raise ProblemError(404, "there is no model of this hash")
    values = rule.model_dump(exclude={"model", "reason"}, mode="json")
    return station.lineup.add_rule(rule.model, values, _by(client, rule.reason))


@router.get("/activations", response_model=list[Activation], responses=documented())
def get_activations(
    _client: Viewer,
    station: TheStation,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Any:
    """List activations, newest first."""
    with station.database.connect() as connection:
        return registry.list_activations(connection, limit)


@router.post(
    "/activations",
    status_code=202,
    response_model=Activation,
    responses=documented(409),
)
async def post_activation(
    client: Engineer, station: TheStation, activation: NewActivation
) -> Any:
    """Return the activation of a model and rule for a source.

    It takes place once all golden samples agree.
    """
    call = partial(
        station.lineup.activate,
        activation.source,
        activation.model,
        activation.rule,
        _by(client, activation.reason),
    )
    row = await run_in_threadpool(call)
    station.tell("activation", row)
    return row


def _by(client: Client, reason: str | None = None) -> By:
    return By(client.name, client.role, reason)
