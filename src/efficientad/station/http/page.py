"""The page: files of the package, sent as they are."""

from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

PAGE: Final = Path(__file__).parents[1] / "page"


class _Page(StaticFiles):
    """Files that browsers ask for again, so that a new version is seen at once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a file."""

        async def unkept(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"cache-control", b"no-cache"),
                ]
            await send(message)

        await super().__call__(scope, receive, unkept)


def add_page(app: FastAPI) -> None:
    """Let an application send the page at `/`, behind all other paths."""
    app.mount("/", _Page(directory=PAGE, html=True), name="page")
