"""Models, rules and activations."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from efficientad.station.http.problems import documented
from efficientad.station.http.schemas import (
    Activation,
    Decision,
    Inspection,
    Line,
    Model,
    NewActivation,
    NewRule,
    Rule,
    Sha256,
    TriedRule,
)
from efficientad.station.http.security import Engineer, TheStation, Viewer
from efficientad.station.prediction.rules import require_region, rule_of
from efficientad.station.prediction.stored import decision_by, is_exact
from efficientad.station.storage import queries, registry, tables
from efficientad.station.storage.queries import new_id, newest

router = APIRouter(tags=["models"])
_MAX_MODEL: Final = 2**30
_N_PARTS: Final = 1000
_N_SHOWN: Final = 12


class ChangedInspection(Inspection):
    """An inspection that a rule would decide in another way."""

    decision_then: Decision


class Preview(BaseModel):
    """Decisions of a rule on the last parts of its model."""

    n: int
    n_flagged: int
    n_flagged_before: int
    n_changed: int
    is_exact: bool
    """Whether the stored maps tell exactly what the rule would decide."""
    changed: list[ChangedInspection]
    """Some of the parts that would be decided in another way, newest first."""


@router.get("/models", response_model=list[Model])
def get_models(_client: Viewer, station: TheStation) -> Any:
    """List the model files that the station has."""
    return station.database.read(registry.list_models)


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
        return await run_in_threadpool(station.lineup.add, place, name, client)
    except OSError as error:
        raise station.media.failed(error) from error
    finally:
        place.unlink(missing_ok=True)


@router.get("/rules", response_model=list[Rule])
def get_rules(
    _client: Viewer,
    station: TheStation,
    model: Annotated[Sha256 | None, Query()] = None,
) -> Any:
    """List rules, newest first."""
    return station.database.read(newest, tables.rules, None, model=model)


@router.post("/rules", status_code=201, response_model=Rule, responses=documented(409))
def post_rule(client: Engineer, station: TheStation, rule: NewRule) -> Any:
    """Add a rule; it is used once it is activated."""
    values = rule.model_dump(exclude={"model", "reason"}, mode="json")
    require_region(values["regions"])
    return station.writer.run(
        registry.add_rule, rule.model, values, client, rule.reason
    )


@router.post("/rules/preview")
def preview(_client: Viewer, station: TheStation, tried: TriedRule) -> Preview:
    """Decide the last 1000 parts of a model by a rule, and store nothing."""
    with station.database.connect() as connection:
        model = registry.model_of(connection, tried.model)
        rule = rule_of({"id": "", **tried.model_dump(mode="json")})
        decide = decision_by(model["calibration"], rule)
        n = n_flagged = n_before = 0
        changed: dict[str, str] = {}
        for row, grids in queries.last_grids(connection, tried.model, _N_PARTS):
            decision = decide(row, grids)
            n += 1
            n_flagged += decision == "anomalous"
            n_before += row["decision"] == "anomalous"
            if decision != row["decision"]:
                changed[row["id"]] = decision
        shown = [
            ChangedInspection.model_validate(
                queries.inspection_of(connection, number) | {"decision_then": decision}
            )
            for number, decision in list(changed.items())[:_N_SHOWN]
        ]
    return Preview(
        n=n,
        n_flagged=n_flagged,
        n_flagged_before=n_before,
        n_changed=len(changed),
        is_exact=is_exact(model["calibration"], rule),
        changed=shown,
    )


@router.get("/activations", response_model=list[Activation])
def get_activations(
    _client: Viewer,
    station: TheStation,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Any:
    """List activations, newest first."""
    return station.database.read(newest, tables.activations, limit)


@router.post(
    "/activations",
    status_code=202,
    response_model=Activation,
    responses=documented(409),
)
def post_activation(
    client: Engineer, station: TheStation, activation: NewActivation
) -> Any:
    """Return the activation of a model and rule for a source.

    It takes place once all golden samples agree.
    """
    row = station.lineup.activate(
        activation.source,
        activation.model,
        activation.rule,
        client,
        activation.reason,
    )
    station.tell("activation", row)
    return row
