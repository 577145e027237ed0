"""Inspections: images in, stored decisions out."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from efficientad.errors import EfficientADError
from efficientad.station.audit_chain import Actor
from efficientad.station.http import pictures
from efficientad.station.http.problems import as_problem, documented, problem_of
from efficientad.station.http.schemas import (
    IMAGE_BODY,
    IMAGES_BODY,
    BatchResult,
    Decision,
    Inspection,
    InspectionList,
    InspectionNumber,
    Key,
    Line,
    Name,
    Number,
    Time,
)
from efficientad.station.http.security import AnyClient, TheStation, Viewer
from efficientad.station.http.uploads import receive
from efficientad.station.prediction.grids import pose_of
from efficientad.station.prediction.pipeline import Station
from efficientad.station.prediction.records import Answer
from efficientad.station.storage import queries, registry

router = APIRouter(prefix="/inspections", tags=["inspections"])

MAX_BATCH: Final = 16
_FOREVER: Final = {"Cache-Control": "private, max-age=31536000, immutable"}
Expected = Literal["normal", "anomalous"]
SourceName = Annotated[Name, Query(description="Name of the source.")]


@router.post(
    "",
    status_code=201,
    response_model=Inspection,
    responses=documented(408, 413, 415) | {200: {"model": Inspection}},
    openapi_extra=IMAGE_BODY,
    max_body_size=None,
)
async def post(  # noqa: PLR0913, PLR0917 - each is a parameter of the interface
    request: Request,
    response: Response,
    client: AnyClient,
    station: TheStation,
    source: SourceName = "http",
    part: Annotated[Line | None, Query()] = None,
    expect: Annotated[Expected | None, Query()] = None,
    captured_at: Annotated[Time | None, Query()] = None,
    color: Annotated[Literal["rgb", "bgr"], Query()] = "rgb",
    idempotency_key: Annotated[Key | None, Header()] = None,
) -> Any:
    """Inspect the image in the body, and answer when the inspection is stored.

    The same `Idempotency-Key` gives the stored answer, with status 200.
    """
    station.enter(source, client.name)
    answer = await inspected(
        request,
        station,
        source=source,
        source_key=idempotency_key,
        part=part,
        expected=expect,
        captured_at=captured_at,
        color=color,
    )
    if answer.is_replay:
        response.status_code = 200
    response.headers["Location"] = f"/api/v1/inspections/{answer.inspection['id']}"
    return answer.inspection


async def inspected(
    request: Request,
    station: Station,
    chunks: Callable[[], AsyncIterator[bytes]] | None = None,
    **known: Any,
) -> Answer:
    """Return the answer to an image that has a place, which is released.

    Without `chunks`, the image is the body. `known` are fields of the arrival.
    """
    length = request.headers.get("content-length") if chunks is None else None
    try:
        body = (chunks or request.stream)()
        arrival = await receive(station, body, length, **known)
    except BaseException:
        station.leave()
        raise
    future = asyncio.wrap_future(station.submit(arrival))
    return await asyncio.shield(future)  # stored also if the client has left


@router.post("/batch", responses=documented(408, 413), openapi_extra=IMAGES_BODY)
async def post_batch(
    request: Request,
    client: AnyClient,
    station: TheStation,
    source: SourceName = "http",
) -> list[BatchResult]:
    """Inspect up to 16 images of a multipart form; each has a result or a problem."""
    if "idempotency-key" in request.headers:
        raise HTTPException(
            400, "a batch takes no Idempotency-Key; post each image with its own"
        )
    seconds = MAX_BATCH * station.config.upload_seconds
    station.enter(source, client.name)  # before the images are read
    try:
        async with asyncio.timeout(seconds):
            await request.form(max_files=MAX_BATCH, max_fields=0)
    except TimeoutError as error:
        text = f"a batch must arrive within {seconds:g} seconds"
        raise HTTPException(408, text) from error
    finally:
        station.leave()
    async with request.form() as form:  # the same one
        files = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
        if not files:
            raise HTTPException(422, f"1 to {MAX_BATCH} images were needed, got none")
        results = (
            _batch_result(request, station, client, source, file) for file in files
        )
        return list(await asyncio.gather(*results))


async def _batch_result(
    request: Request, station: Station, client: Actor, source: str, file: UploadFile
) -> BatchResult:
    name = re.sub(r"[\x00-\x1f\x7f]", "", file.filename or "")[:200]

    async def chunks() -> AsyncIterator[bytes]:
        while chunk := await file.read(2**20):
            yield chunk

    try:
        station.enter(source, client.name)
        answer = await inspected(
            request, station, chunks, source=source, part=name or None
        )
    except (EfficientADError, HTTPException) as error:
        return BatchResult(name=name, problem=as_problem(problem_of(error)))
    found = Inspection.model_validate(answer.inspection)
    return BatchResult(name=name, inspection=found)


@router.get("", response_model=InspectionList)
def get_all(  # noqa: PLR0913, PLR0917 - each is a parameter of the interface
    _client: Viewer,
    station: TheStation,
    source: Annotated[Name | None, Query()] = None,
    decision: Annotated[Decision | None, Query()] = None,
    part: Annotated[Line | None, Query()] = None,
    model: Annotated[Line | None, Query()] = None,
    review_state: Annotated[Line | None, Query()] = None,
    since: Annotated[Time | None, Query()] = None,
    until: Annotated[Time | None, Query()] = None,
    before: Annotated[Number | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Any:
    """List inspections, newest first."""
    equal = {"source": source, "decision": decision, "part": part, "model": model}
    items = station.database.read(
        queries.list_inspections,
        limit=limit,
        before=before,
        since=since,
        until=until,
        equal={**equal, "review_state": review_state},
    )
    return {"items": items, "next": items[-1]["id"] if len(items) == limit else None}


@router.get("/{number}", response_model=Inspection)
def get(_client: Viewer, station: TheStation, number: InspectionNumber) -> Any:
    """Return one inspection."""
    return _row(station, number)


@router.get("/{number}/image", responses=documented(410))
def image(
    _client: Viewer, station: TheStation, number: InspectionNumber
) -> FileResponse:
    """Return the image as it came."""
    row, file = _row(station, number), ExitStack()
    path = file.enter_context(_image_file(station, row))
    name = f"{number}{path.suffix}"
    end = BackgroundTask(file.close)
    return FileResponse(path, filename=name, headers=_FOREVER, background=end)


@router.get("/{number}/preview", responses=documented(410))
def preview(
    _client: Viewer,
    station: TheStation,
    number: InspectionNumber,
    aligned: Annotated[bool, Query()] = False,  # noqa: FBT002 - by its name only
) -> Response:
    """Return the image as a JPEG of 1280 pixels at most.

    `aligned`: as rules see it, if the model aligns parts.
    """
    row = _row(station, number)
    levels = _calibration(station, row).get("levels")
    pose = pose_of(_artifact(station, number, "grids")) if aligned else None
    with _image_file(station, row) as path:
        content = pictures.preview(path, row["color"], levels, pose)
    return Response(content, 200, _FOREVER, "image/jpeg")


@router.get("/{number}/thumbnail", responses=documented(410))
def thumbnail(
    _client: Viewer, station: TheStation, number: InspectionNumber
) -> Response:
    """Return the image as a JPEG of 192 pixels at most."""
    return Response(
        _artifact(station, number, "thumbnail"), 200, _FOREVER, "image/jpeg"
    )


@router.get("/{number}/heatmap", responses=documented(410))
def heatmap(
    _client: Viewer,
    station: TheStation,
    number: InspectionNumber,
    map: Annotated[Line, Query()] = "combined",  # noqa: A002 - as it is called
) -> Response:
    """Return a map as a PNG of the preview's size, transparent where it is low."""
    row, grids = _row(station, number), _artifact(station, number, "grids")
    median, limit = _calibration(station, row)["normal_range"]
    content = pictures.heatmap(grids, map, row, (median, limit))
    return Response(content, 200, _FOREVER, "image/png")


@router.get("/{number}/map", responses=documented(410))
def map_(
    _client: Viewer,
    station: TheStation,
    number: InspectionNumber,
    map: Annotated[Line, Query()] = "combined",  # noqa: A002 - as it is called
) -> Response:
    """Return a map as a float32 TIFF of the image's size."""
    row, grids = _row(station, number), _artifact(station, number, "grids")
    content = pictures.map_file(grids, map, row)
    return Response(content, 200, _FOREVER, "image/tiff")


def _calibration(station: Station, row: queries.Row) -> dict[str, Any]:
    """Return what the model of an inspection said of its calibration."""
    model = station.database.read(registry.model_of, row["model"])
    calibration: dict[str, Any] = model["calibration"]
    return calibration


def _row(station: Station, number: str) -> queries.Row:
    return station.database.read(queries.inspection_of, number)


@contextmanager
def _image_file(station: Station, row: queries.Row) -> Iterator[Path]:
    with station.media.file(row["media_path"] or "removed") as path:
        if not path.is_file():
            raise HTTPException(410, "the image of this inspection has been removed")
        yield path


def _artifact(station: Station, number: str, name: str) -> bytes:
    found = station.database.read(queries.artifact_of, number, name)
    if found is None:
        raise HTTPException(410, f"this inspection has no {name}: it is undecided")
    return found
