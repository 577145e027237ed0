"""The application: a station behind its HTTP interface."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from fastapi import APIRouter, FastAPI

import efficientad
from efficientad.errors import EfficientADError
from efficientad.station.config import StationConfig
from efficientad.station.http import (
    audit,
    drift,
    events,
    inspections,
    jobs,
    lookout,
    models,
    reviews,
    system,
)
from efficientad.station.http.events import Events
from efficientad.station.http.page import Page
from efficientad.station.http.problems import add_handlers, documented
from efficientad.station.http.security import Border
from efficientad.station.prediction.lineup import OpenModel, open_model
from efficientad.station.prediction.pipeline import Station
from efficientad.station.sinks.mqtt import MqttSink
from efficientad.station.sinks.outbox import Delivery, Sink
from efficientad.station.sinks.webhook import WebhookSink
from efficientad.station.sources.camera import CameraSource
from efficientad.station.sources.folder import FolderSource
from efficientad.station.storage import registry
from efficientad.station.storage.queries import Row
from efficientad.station.watching.monitor import Monitor

_MEGABYTE = 10**6


def create_app(config: StationConfig, opener: OpenModel = open_model) -> FastAPI:
    """Return the application of a station; the station lives as long as it runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            station = Station(config, opener)
        except EfficientADError as error:
            app.state.failure = error
            raise
        app.state.station = station
        app.state.events = Events(asyncio.get_running_loop(), station.store)
        monitor = Monitor(station.store, config, station.tell, station.report)
        app.state.monitor = monitor
        station.listeners += [app.state.events, monitor]
        ends = ExitStack()
        ends.callback(station.close)
        ends.callback(monitor.close)
        with_sinks(station, ends)
        await asyncio.to_thread(station.start)
        monitor.start()
        app.state.cameras = with_sources(station, ends)
        try:
            yield
        finally:
            app.state.events.close()
            await asyncio.to_thread(ends.close)

    app = FastAPI(
        title="efficientad station",
        version=efficientad.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        max_body_size=(inspections.MAX_BATCH * config.max_upload_mb + 1) * _MEGABYTE,
    )
    add_handlers(app)
    app.add_middleware(Border, config=config)
    errors = documented(400, 401, 403, 404, 422, 429, 503)
    api = APIRouter(prefix="/api/v1", responses=errors)
    for router in (
        inspections.router,
        models.router,
        system.router,
        events.router,
        reviews.router,
        jobs.router,
        drift.router,
        audit.router,
    ):
        api.include_router(router)
    app.include_router(api)
    app.include_router(lookout.router)
    app.include_router(system.outside)
    app.mount("/", Page(), name="page")  # behind all other paths
    return app


def with_sinks(station: Station, ends: ExitStack) -> None:
    """Begin to deliver inspections to all sinks."""
    config = station.config
    sinks: list[Sink] = [WebhookSink(hook) for hook in config.webhooks]
    if config.mqtt is not None:
        sinks.append(broker := MqttSink(config.mqtt, config.name, station.replica))
        station.listeners.append(broker.note)
    for sink in sinks:
        delivery = Delivery(sink, station.store, station.log.warning)
        station.listeners.append(delivery.wake)
        ends.callback(delivery.close)


def with_sources(station: Station, ends: ExitStack) -> dict[str, CameraSource]:
    """Begin to read all sources of the settings, and return the cameras by name."""
    config = station.config
    rows: list[Row] = [
        {"name": each.name, "kind": "folder", "settings": {"path": str(each.path)}}
        for each in config.folders
    ]
    rows += [
        {"name": each.name, "kind": "camera", "settings": {"mode": each.mode}}
        for each in config.cameras
    ]
    station.writer.run(registry.set_sources, rows)
    for folder in config.folders:
        ends.callback(FolderSource(folder, station).close)
    cameras = {each.name: CameraSource(each, station) for each in config.cameras}
    for camera in cameras.values():
        ends.callback(camera.close)
    return cameras
