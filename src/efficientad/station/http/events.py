"""Events of the station as a stream (server-sent events)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from efficientad.station.http.security import Viewer
from efficientad.station.storage.queries import Row, as_json
from efficientad.station.storage.relay import Relay
from efficientad.station.storage.store import Store

router = APIRouter(tags=["events"])

_MAX_WAITING: Final = 200
_INSPECTION: Final = (
    *("id", "source", "part", "received_at", "decision", "expected", "review_state"),
    *("image_score", "masked_score", "threshold", "p_value", "model", "rule", "error"),
)
_Event = tuple[str, Row]


class Events:
    """Passes events from any thread to the streams; a slow stream loses the oldest.

    Those of a replica also go to the streams of the others.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store) -> None:
        self._loop = loop
        self._streams: set[asyncio.Queue[_Event | None]] = set()
        self._is_closed = False
        self._relay = Relay(store, self._show) if store.has_peers else None

    def __call__(self, kind: str, content: Row) -> None:
        """Pass an event on, in any thread."""
        if kind == "inspection":
            content = {name: content[name] for name in _INSPECTION}
        plain = as_json(content)
        self._show(kind, plain)
        if self._relay is not None:
            self._relay.send(kind, plain)

    def close(self) -> None:
        """End all streams; the server waits for them when it stops."""
        self._is_closed = True
        self._pass_on(None)
        if self._relay is not None:
            self._relay.close()

    async def stream(self) -> AsyncIterator[_Event]:
        """Yield events from now on, until the station stops."""
        queue: asyncio.Queue[_Event | None] = asyncio.Queue(_MAX_WAITING)
        self._streams.add(queue)
        try:
            while not self._is_closed:
                event = await queue.get()
                if event is None:
                    return
                yield event
        finally:
            self._streams.discard(queue)

    def _show(self, kind: str, content: Row) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pass_on, (kind, content))

    def _pass_on(self, event: _Event | None) -> None:
        for queue in self._streams:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)


@router.get("/events", response_class=EventSourceResponse)
async def events(_client: Viewer, request: Request) -> AsyncIterator[ServerSentEvent]:
    """Stream inspections, incidents and activations as they are stored."""
    source: Events = request.app.state.events
    yield ServerSentEvent(event="hello", data={})
    async for kind, content in source.stream():
        yield ServerSentEvent(event=kind, data=content)
