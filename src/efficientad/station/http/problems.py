"""Problem details (RFC 9457): every error is an answer of one form."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

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
_UNAVAILABLE_SECONDS: Final = 1
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


class ProblemError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def problem_of(error: Exception) -> ProblemError:
    """Return the answer to an error that is raised on purpose."""
    if isinstance(error, ProblemError):
        return error
    status = next(status for kind, status in _STATUS_OF if isinstance(error, kind))
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, UnavailableError):
        headers["Retry-After"] = str(_UNAVAILABLE_SECONDS)
    return ProblemError(status, str(error), headers)


def as_problem(error: ProblemError) -> Problem:
    """Return the body of an error."""
    title = HTTPStatus(error.status).phrase
    return Problem(title=title, status=error.status, detail=error.detail)


def response_of(error: ProblemError) -> JSONResponse:
    """Return the response of an error."""
    return JSONResponse(
        as_problem(error).model_dump(),
        error.status,
        {**error.headers, "Cache-Control": "no-store"},
        MEDIA_TYPE,
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return these errors, and those of every path, for the OpenAPI description."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({400, 401, 403, 404, 422, 429, 503, *statuses})
    }


def add_handlers(app: FastAPI) -> None:
    """Let an application answer every error as a problem."""

    async def on_purpose(_request: Request, error: Exception) -> JSONResponse:
        return response_of(problem_of(error))

    async def of_framework(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        return response_of(ProblemError(error.status_code, str(error.detail), headers))

    async def of_validation(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        reasons = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in error.errors()
        ]
        return response_of(ProblemError(422, "; ".join(reasons)))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger().error("failed", path=request.url.path, exc_info=error)
        return response_of(ProblemError(500, "the station failed; see its log"))

    app.add_exception_handler(EfficientADError, on_purpose)
    app.add_exception_handler(ProblemError, on_purpose)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(Exception, unexpected)
