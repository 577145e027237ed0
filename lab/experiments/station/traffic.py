"""Parts that are sent to a station, one after another or at given times."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from efficientad_lab.demo_station import part_file
from lab.experiments.station.harness import (
    INSPECTIONS,
    StationProcess,
    free_port,
    request,
    station_process,
)

N_PARTS = 64


@dataclass(frozen=True)
class Settings:
    """Sizes of the items; the defaults are the short form."""

    model: Path
    kills: int
    seconds: float
    seed: int


@lru_cache(maxsize=N_PARTS)
def part(number: int) -> bytes:
    """Return a part of the demo."""
    return part_file(number)[0]


def content(number: int) -> bytes:
    """Return a part of the demo whose bytes no other number has."""
    return part(number % N_PARTS) + number.to_bytes(8)


@contextmanager
def station(
    settings: Settings, folder: Path, *lines: str, prefix: tuple[str, ...] = ()
) -> Iterator[StationProcess]:
    """Run a station on a data folder."""
    port = free_port()
    toml = folder / "station.toml"
    toml.write_text("\n".join(("min_free_mb = 1", "min_free_share = 0.0", *lines)))
    program = [*prefix, sys.executable, "-m", "efficientad", "serve"]
    options = ["--config", toml, "--data", folder / "data", "--port", str(port)]
    command = list(map(str, [*program, settings.model, *options]))
    with station_process(command, port, folder / "log") as process:
        yield process


def post(port: int, number: int, key: str | None = None) -> tuple[int, float]:
    """Send a part, and return status and seconds."""
    start = time.perf_counter()
    headers = {} if key is None else {"Idempotency-Key": key}
    status, _ = request(port, "POST", INSPECTIONS, content(number), headers)
    return status, time.perf_counter() - start


def service_seconds(port: int, n_images: int = 30) -> float:
    """Return the mean time of one image after another."""
    return float(np.mean([post(port, n)[1] for n in range(n_images)][5:]))


def rate_of(
    call: Callable[[int], object],
    n_clients: int,
    settings: Settings,
    pool: ThreadPoolExecutor,
) -> float:
    """Return the calls a second of some clients, each in a closed loop."""
    start = time.monotonic()

    def loop(client: int) -> int:
        number = 0
        while time.monotonic() < start + settings.seconds:
            call(number * n_clients + client)
            number += 1
        return number

    n_calls = sum(pool.map(loop, range(n_clients)))
    return n_calls / (time.monotonic() - start)


def open_loop(
    port: int, seconds: float, gaps: Callable[[], float]
) -> list[tuple[int, float]]:
    """Return statuses and seconds of parts sent at given times, whatever comes back."""
    start = due = time.monotonic()
    futures, number = [], 0
    with ThreadPoolExecutor(256) as pool:
        while due < start + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            futures.append(pool.submit(late_post, port, number, due))
            number, due = number + 1, due + gaps()
    return [future.result() for future in futures]


def late_post(port: int, number: int, due: float) -> tuple[int, float]:
    """Send a part; its seconds count from when it was due."""
    status, _ = post(port, number)
    return status, time.monotonic() - due


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024
