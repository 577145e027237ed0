"""A station for tests: a fake predictor in a real process, and images."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image
from tests.station_models import NORMAL, dangerous

from efficientad.station.config import StationConfig
from efficientad.station.http.app import create_app
from efficientad.station.logs import configure_logs
from efficientad.station.prediction.pipeline import Station

INSPECTIONS = "/api/v1/inspections"
DATABASES: list[Callable[[Path], str]] = []
"""The last one returns the database of a station in a folder; SQLite without one."""

configure_logs()  # by default, an error is drawn with all variables, for minutes


def image_of(brightness: int, *, size: int = 32, seed: int | None = None) -> bytes:
    """Return a PNG of one brightness; a seed makes its bytes different."""
    pixels = np.full((size, size, 3), brightness, np.uint8)
    if seed is not None:
        pixels[0, : min(4, size)] = np.frombuffer(seed.to_bytes(12), np.uint8).reshape(
            4, 3
        )
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def config_in(folder: Path, **settings: Any) -> StationConfig:
    """Return settings of a station in a folder, with a model file that is a fake."""
    model = folder / "part.ead"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model.write_bytes(b"a fake model")
    small: dict[str, Any] = {
        "min_free_mb": 1,
        "min_free_share": 0.0,
        "allowed_hosts": ("testserver",),
    }
    if DATABASES:
        small["database"] = DATABASES[-1](folder)
    return StationConfig(model=model, data=folder / "data", **(small | settings))


def wait_until(condition: Any, seconds: float = 120.0) -> None:
    """Wait until a condition holds; fail if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


@contextmanager
def running(config: StationConfig, opener: Any = dangerous) -> Iterator[TestClient]:
    """Run a station, ready, behind a client."""
    with TestClient(create_app(config, opener)) as client:
        wait_until(lambda: is_ready(client))
        yield client


def post(
    client: TestClient,
    image: int | bytes = NORMAL,
    key: str | None = None,
    **query: Any,
) -> Any:
    """Return the answer to an image, which is given by its file or its brightness."""
    content = image_of(image) if isinstance(image, int) else image
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(INSPECTIONS, content=content, headers=headers, params=query)


def inspected(client: TestClient, image: int | bytes = NORMAL, **query: Any) -> Any:
    """Return the inspection of an image, which is posted again while it is refused.

    A station takes no image while it replaces the process that predicts.
    """
    while (answer := post(client, image, **query)).status_code == 503:
        time.sleep(0.1)
    assert answer.status_code == 201, answer.text
    return answer.json()


def listed(client: TestClient, **query: Any) -> Any:
    """Return the newest inspections."""
    return client.get(INSPECTIONS, params={"limit": 200, **query}).json()["items"]


def incidents(client: TestClient) -> Any:
    """Return the newest incidents."""
    return client.get("/api/v1/system").json()["incidents"]


def is_ready(client: TestClient) -> bool:
    """Return whether a station takes images."""
    return client.get("/health/ready").status_code == 200


def station_of(client: TestClient) -> Station:
    """Return the station behind a client."""
    app: Any = client.app
    station: Station = app.state.station
    return station
