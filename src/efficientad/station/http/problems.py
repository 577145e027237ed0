"""Problem details (RFC 9457): every error is an answer of one form."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from efficientad.errors import EfficientADError, ImageError, ModelFileError
from efficientad.station.errors import (
    ConflictError,
    KeyReusedError,
    OverloadedError,
    UnavailableError,
    UnknownError,
)
from efficientad.station.logs import logger

MEDIA_TYPE: Final = "application/problem+json"
_STATUS_OF: Final[tuple[tuple[type[Exception], int], ...]] = (
    (ImageError, 422),
    (ModelFileError, 422),
    (KeyReusedError, 422),
    (ConflictError, 409),
    (UnknownError, 404),
    (OverloadedError, 429),
    (UnavailableError, 503),
    (EfficientADError, 400),
)


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def problem_of(error: Exception) -> HTTPException:
    """Return the answer to an error that is raised on purpose, also by FastAPI."""
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, ClientDisconnect):
        return HTTPException(400, "the client left before the end")
    if isinstance(error, RequestValidationError):
        reasons = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in error.errors()
        ]
        return HTTPException(422, "; ".join(reasons))
    status = next(status for kind, status in _STATUS_OF if isinstance(error, kind))
    headers = {}
    if isinstance(error, OverloadedError | UnavailableError):
        headers["Retry-After"] = str(error.retry_after)
    return HTTPException(status, str(error), headers)


def as_problem(error: HTTPException) -> Problem:
    """Return the body of an error."""
    status = error.status_code
    title = HTTPStatus(status).phrase
    return Problem(title=title, status=status, detail=str(error.detail))


def response_of(error: HTTPException) -> JSONResponse:
    """Return the response of an error."""
    return JSONResponse(
        as_problem(error).model_dump(),
        error.status_code,
        {**(error.headers or {}), "Cache-Control": "no-store"},
        MEDIA_TYPE,
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return errors for the OpenAPI description."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def add_handlers(app: FastAPI) -> None:
    """Make an application answer every error as a problem."""

    async def on_purpose(_request: Request, error: Exception) -> JSONResponse:
        return response_of(problem_of(error))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger().error("failed", path=request.url.path, exc_info=error)
        return response_of(HTTPException(500, "the station failed; see its log"))

    for kind in (
        EfficientADError,
        HTTPException,
        RequestValidationError,
        ClientDisconnect,
    ):
        app.add_exception_handler(kind, on_purpose)
    app.add_exception_handler(Exception, unexpected)
