"""A new rule on the last parts, before it counts."""

import json
from typing import Annotated, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from efficientad.station.http.problems import ProblemError, documented
from efficientad.station.http.schemas import (
    Inspection,
    RegionOfInterest,
    Sha256,
    _Strict,
)
from efficientad.station.http.security import TheStation, Viewer
from efficientad.station.prediction.preview import decision_by, is_exact
from efficientad.station.prediction.rules import Rule
from efficientad.station.storage import queries, registry

router = APIRouter(tags=["models"])
_N_PARTS: Final = 1000
_N_SHOWN: Final = 12


class TriedRule(_Strict):
    """A rule that is not written yet."""

    model: Sha256
    threshold: Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
    budget: Annotated[float, Field(ge=1e-6, le=0.5)]
    min_area: Annotated[int, Field(ge=0, le=10**9)] = 0
    regions: list[RegionOfInterest] = Field(default_factory=list, max_length=100)


class ChangedInspection(Inspection):
    """An inspection that a rule would decide in another way."""

    decision_then: Literal["normal", "anomalous", "undecided"]


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


@router.post("/rules/preview", responses=documented())
def preview(_client: Viewer, station: TheStation, tried: TriedRule) -> Preview:
    """Decide the last 1000 parts of a model by a rule, and store nothing."""
    with station.database.connect() as connection:
        model = registry.model_of(connection, tried.model)
        if model is None:
            raise ProblemError(404, "there is no model of this hash")
        regions = [region.model_dump(mode="json") for region in tried.regions]
        values = tried.model_dump(exclude={"regions"})
        rule = Rule(id="", version=0, regions=json.dumps(regions), **values)
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
                (queries.inspection_of(connection, number) or {})
                | {"decision_then": decision}
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
