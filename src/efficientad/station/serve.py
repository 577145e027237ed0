"""`efficientad serve`: the station as a process, alone or under systemd."""

import asyncio
import json
import logging
import os
import socket
from contextlib import suppress
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from efficientad.errors import ConfigError, EfficientADError
from efficientad.station.config import StationConfig, shown
from efficientad.station.errors import UnavailableError
from efficientad.station.http.app import create_app
from efficientad.station.http.security import new_token
from efficientad.station.logs import configure_logs, logger
from efficientad.station.prediction.lineup import OpenModel, open_model

_GRACE_SECONDS: Final = 3
_NOTIFY_SECONDS: Final = 5.0
_KEEP_ALIVE_SECONDS: Final = 30


class Server(uvicorn.Server):
    """uvicorn, which first ends the streams of events: it would wait for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the streams, then the server."""
        if hasattr(self._app.state, "events"):
            self._app.state.events.close()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and tell the address and systemd."""
        await super().startup(sockets)
        if self.started:
            station, host = self._app.state.station, self.config.host
            port = (sockets or self.servers[0].sockets)[0].getsockname()[1]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
            logger().info("station", address=address, settings=shown(station.config))
            print(f"station at {address}", flush=True)  # noqa: T201
            self._watchdog = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        """Report to systemd that the loop and the writer still work."""
        station = self._app.state.station
        notify("READY=1")
        while True:
            with suppress(UnavailableError):  # the writer works, the disk does not
                await asyncio.to_thread(station.writer.run, lambda _connection: None)
            notify("WATCHDOG=1")
            await asyncio.sleep(_NOTIFY_SECONDS)


def notify(state: str) -> None:
    """Report a state to systemd, where it has started this process."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address.replace("@", "\0", 1))
        channel.sendall(state.encode())


def token_lines(name: str) -> list[str]:
    """Return a new token, and the lines of the TOML file that let it in."""
    token, digest = new_token()
    return [
        f"token: {token}",
        "",
        "[[tokens]]",
        f"name = {json.dumps(name)}",
        'role = "line"  # or viewer, operator, engineer',
        f'sha256 = "{digest}"',
    ]


def serve(config: StationConfig, opener: OpenModel = open_model) -> None:
    """Run a station until it is told to stop (SIGTERM or Ctrl-C).

    Raises:
        ConfigError: If the port cannot be used.
        StorageError: If the data folder cannot be used.
    """
    configure_logs()
    for name in ("uvicorn.error", "asyncio"):  # what matters is logged here as well
        logging.getLogger(name).addHandler(logging.NullHandler())
    app = create_app(config, opener)
    server = Server(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # security.py asks who the proxy is
            timeout_graceful_shutdown=_GRACE_SECONDS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        ),
        app,
    )
    if config.is_open:
        logger().warning("everybody who reaches this station may do everything")
    with _listening(config) as channel, suppress(KeyboardInterrupt):
        try:
            server.run([channel])  # Ctrl-C is raised again once all has ended
        except SystemExit:
            failure: EfficientADError | None = getattr(app.state, "failure", None)
            if failure is None:
                raise
            raise failure from None


def _listening(config: StationConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"a station needs a free port, {config.port} of {config.host} cannot be "
            f"used ({error.strerror}); give another one with --port"
        ) from error
