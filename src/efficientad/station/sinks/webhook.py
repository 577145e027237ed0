"""Inspections as JSON to an address, by POST.

No redirect is followed, and the address that was checked is the one that is connected:
a name that changes between the two cannot lead into a private network.
"""

import ipaddress
import json
import socket
import ssl
from http.client import HTTPConnection, HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from efficientad.station.config import Webhook
from efficientad.station.sinks.outbox import RefusedError

_TIMEOUT: Final = 10.0
_PORTS: Final = {"http": 80, "https": 443}
_TOO_MANY, _SERVER_ERROR = 429, 500


class WebhookSink:
    """A receiver of inspections by HTTP."""

    def __init__(self, hook: Webhook) -> None:
        parts = urlsplit(hook.url)
        self.name = hook.name
        self._is_private = hook.is_private
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or _PORTS[parts.scheme]
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def deliver(self, payload: dict[str, Any]) -> None:
        """Send an inspection, known again by its number; a redirect is a refusal."""
        connection = HTTPConnection(self._host, self._port, timeout=_TIMEOUT)
        connection.sock = self._connected()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": payload["id"],
        }
        try:
            body = json.dumps(payload).encode()
            connection.request("POST", self._path, body, headers)
            status = connection.getresponse().status
        except HTTPException as error:
            raise OSError(f"no answer of HTTP ({error!r})") from error
        finally:
            connection.close()
        if status >= _SERVER_ERROR or status == _TOO_MANY:
            raise OSError(f"the receiver answers {status}")
        if not 200 <= status < 300:  # noqa: PLR2004 - success in HTTP
            raise RefusedError(f"the receiver answers {status}")

    def close(self) -> None:
        """Do nothing: each delivery has its own connection."""

    def _connected(self) -> socket.socket:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        address = str(found[0][4][0])
        if not (self._is_private or ipaddress.ip_address(address).is_global):
            raise OSError(
                f"{self._host} is {address}, which is in no public network; allow it "
                "with is_private = true"
            )
        channel = socket.create_connection((address, self._port), _TIMEOUT)
        if not self._is_tls:
            return channel
        context = ssl.create_default_context()
        return context.wrap_socket(channel, server_hostname=self._host)
