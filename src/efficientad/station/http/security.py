"""Who may do what: hosts, origins, tokens, sessions and roles.

A page of another site can reach a station on loopback by rebinding its name, so that
the Host header is always compared with a list, and the Origin of every change.
"""

import hashlib
import secrets
from collections.abc import Callable
from ipaddress import ip_address
from typing import Annotated, Final

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from efficientad.station.audit_chain import Actor
from efficientad.station.config import Role, StationConfig
from efficientad.station.http.problems import response_of
from efficientad.station.prediction.pipeline import Station
from efficientad.station.storage import registry
from efficientad.station.storage.queries import Row

SESSION_COOKIE: Final = "station"
_LONGEST_NAME: Final = 200
_RANK: Final = {"line": 0, "viewer": 1, "operator": 2, "engineer": 3}
_READING: Final = {"GET", "HEAD", "OPTIONS"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types lit-html"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def new_token() -> tuple[str, str]:
    """Return a new token and its SHA-256."""
    token = secrets.token_urlsafe(32)
    return token, token_hash(token)


def token_hash(token: str) -> str:
    """Return the SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def station_of(request: Request) -> Station:
    """Return the station of an application."""
    station: Station = request.app.state.station
    return station


async def client_of(request: Request) -> Actor:
    """Return who sends a request.

    Raises:
        HTTPException: 401 if a token is missing or not valid.
    """
    station = station_of(request)
    config = station.config
    if config.is_open or not config.has_identities:
        return Actor("anybody", "engineer")
    if config.proxy is not None and is_from_proxy(request):
        name = request.headers.get(config.proxy.header, "")[:_LONGEST_NAME]
        if name:
            return Actor(name, config.proxy.role_of(name))
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":  # clients of AWS send it as a session's token
        token = request.headers.get("x-amz-security-token", "")
        token = token or request.cookies.get(SESSION_COOKIE, "")
    row = await run_in_threadpool(token_row, station, token)
    if row is None:
        raise HTTPException(
            401,
            "a valid token is needed; send it as Authorization: Bearer TOKEN",
            {"WWW-Authenticate": "Bearer"},
        )
    return Actor(row["name"], row["role"])


def is_from_proxy(request: Request) -> bool:
    """Return whether a request comes from the proxy of the settings."""
    proxy = station_of(request).config.proxy
    if proxy is None or request.client is None:
        return False
    address = ip_address(request.client.host)
    return any(address in network for network in proxy.networks)


def is_secure(request: Request) -> bool:
    """Return whether a request came by HTTPS, as far as the station or its proxy."""
    scheme = request.headers.get("x-forwarded-proto", "")
    return "https" in {request.url.scheme, scheme if is_from_proxy(request) else ""}


def token_row(station: Station, token: str) -> Row | None:
    """Return the row of a token, or of that of a session; None: it is not valid."""
    if not token:
        return None
    return station.database.read(registry.token_of, token_hash(token))


def require(role: Role) -> Callable[[Actor], Actor]:
    """Return the dependency for a path that needs at least a role."""

    def allowed(client: Annotated[Actor, Depends(client_of)]) -> Actor:
        if _RANK[client.role] < _RANK[role]:
            raise HTTPException(
                403, f"the role {role} is needed, {client.name} has {client.role}"
            )
        return client

    return allowed


AnyClient = Annotated[Actor, Depends(require("line"))]
Viewer = Annotated[Actor, Depends(require("viewer"))]
Operator = Annotated[Actor, Depends(require("operator"))]
Engineer = Annotated[Actor, Depends(require("engineer"))]
TheStation = Annotated[Station, Depends(station_of)]


class Border:
    """Refuses foreign hosts and origins, and adds the security headers."""

    def __init__(self, app: ASGIApp, config: StationConfig) -> None:
        self._app = app
        own = {"localhost", "127.0.0.1", "[::1]", config.host.lower()}
        self._hosts = own | {name.lower() for name in config.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        problem = self._problem(scope["method"], headers)
        answer = self._app if problem is None else response_of(problem)
        await answer(scope, receive, with_headers)

    def _problem(self, method: str, headers: Headers) -> HTTPException | None:
        host = headers.get("host", "")
        if _name_of(host) not in self._hosts:
            return HTTPException(
                400, "this host is not one of the station's; add it to allowed_hosts"
            )
        origin = headers.get("origin")
        if method in _READING or origin is None:
            return None
        if origin.partition("://")[2].lower() != host.lower():
            return HTTPException(403, "changes are taken from the station's own page")
        return None


def _name_of(host: str) -> str:
    """Return a host without its port, in lower case."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()
