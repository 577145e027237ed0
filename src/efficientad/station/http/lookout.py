"""DetectAnomalies of Amazon Lookout for Vision, for clients that were written for it.

Address, answer and errors are those of the service. The project is the source; model
and rule are those that the station has activated, whatever version is asked for.
"""

import base64
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from PIL import Image, ImageColor
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from efficientad.errors import EfficientADError
from efficientad.images.encoding import encoded
from efficientad.station.http.inspections import inspected
from efficientad.station.http.problems import problem_of
from efficientad.station.http.schemas import IMAGE_BODY, Line, Name
from efficientad.station.http.security import AnyClient, TheStation
from efficientad.station.prediction.pipeline import Station
from efficientad.station.prediction.stored import stored_prediction
from efficientad.station.storage import queries, registry

_BACKGROUND: Final = "#FFFFFF"
_ANOMALY: Final = "#D62728"
_CODES: Final = {
    401: (403, "AccessDeniedException"),
    403: (403, "AccessDeniedException"),
    404: (404, "ResourceNotFoundException"),
    429: (429, "ThrottlingException"),
    503: (503, "InternalServerException"),
}
_INVALID: Final = (400, "ValidationException")


class _Route(APIRoute):
    """A path whose errors have the form of the service."""

    def get_route_handler(
        self,
    ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except (EfficientADError, HTTPException, RequestValidationError) as error:
                return _failure(problem_of(error))

        return answer


def _failure(error: HTTPException) -> JSONResponse:
    status, code = _CODES.get(error.status_code, _INVALID)
    headers = {**(error.headers or {}), "x-amzn-ErrorType": code}
    return JSONResponse({"Message": error.detail}, status, headers)


class Failure(BaseModel):
    """An error; its kind is in the header x-amzn-ErrorType."""

    Message: str


class ImageSource(BaseModel):
    """Origin of an image."""

    Type: Literal["direct"] = "direct"


class PixelAnomaly(BaseModel):
    """The pixels of a kind of anomaly."""

    TotalPercentageArea: float
    """Share of the image, in [0, 1], as the service has it."""
    Color: str
    """Color in the mask."""


class Anomaly(BaseModel):
    """A kind of anomaly in an image, or its background."""

    Name: Literal["background", "anomaly"]
    PixelAnomaly: PixelAnomaly


class DetectAnomalyResult(BaseModel):
    """Decision on an image, and its defects."""

    Source: ImageSource = ImageSource()
    IsAnomalous: bool
    """True also where the station has no decision."""
    Confidence: float
    """0 without a decision, 0.5 at the threshold, towards 1 far from it."""
    Anomalies: list[Anomaly] | None = None
    AnomalyMask: str | None = None
    """PNG of the image's size, base64."""


class Detected(BaseModel):
    """The answer of DetectAnomalies."""

    DetectAnomalyResult: DetectAnomalyResult


router = APIRouter(
    tags=["lookout"],
    route_class=_Route,
    responses={status: {"model": Failure} for status in (400, 403, 404, 429, 503)},
)


@router.post(
    "/2020-11-20/projects/{project}/models/{version}/detect",
    response_model_exclude_none=True,
    openapi_extra=IMAGE_BODY,
    max_body_size=None,
)
async def detect(
    request: Request,
    client: AnyClient,
    station: TheStation,
    project: Annotated[Name, Path(description="Name of the source.")],
    version: Annotated[Line, Path(description="Any.")],
) -> Detected:
    """Inspect the image in the body, and answer as Lookout for Vision did."""
    del version
    station.enter(project, client.name)
    answer = await inspected(request, station, source=project)
    result = await run_in_threadpool(_result, station, answer.inspection)
    return Detected(DetectAnomalyResult=result)


def _result(station: Station, row: queries.Row) -> DetectAnomalyResult:
    if row["image_score"] is None:
        return DetectAnomalyResult(IsAnomalous=True, Confidence=0.0)
    with station.database.connect() as connection:
        grids = queries.artifact_of(connection, row["id"], "grids")
        model = registry.model_of(connection, row["model"])
        rule = registry.rule_of(connection, row["model"], row["rule"])
    assert grids is not None
    mask = stored_prediction(row, grids, model["calibration"], rule).region_mask
    share = float(mask.mean())
    found = [_anomaly("background", 1 - share, _BACKGROUND)]
    if share:
        found.append(_anomaly("anomaly", share, _ANOMALY))
    is_decided = row["decision"] != "undecided"
    return DetectAnomalyResult(
        IsAnomalous=row["decision"] != "normal",
        Confidence=_confidence(row) if is_decided else 0.0,
        Anomalies=found,
        AnomalyMask=base64.b64encode(_drawn(mask)).decode(),
    )


def _anomaly(
    name: Literal["background", "anomaly"], area: float, color: str
) -> Anomaly:
    pixels = PixelAnomaly(TotalPercentageArea=area, Color=color)
    return Anomaly(Name=name, PixelAnomaly=pixels)


def _confidence(row: queries.Row) -> float:
    threshold = row["threshold"]
    distance = abs(row["masked_score"] - threshold)
    span = distance + abs(threshold)
    return 0.5 + 0.5 * (distance / span if span else 0.0)


def _drawn(mask: Any) -> bytes:
    colors = np.array([*map(ImageColor.getrgb, (_BACKGROUND, _ANOMALY))], np.uint8)
    return encoded(Image.fromarray(colors[mask.astype(np.intp)]))
