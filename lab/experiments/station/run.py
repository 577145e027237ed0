"""The acceptance of the inspection station, items 1 to 6, in short or whole form.

    python lab/experiments/station/run.py kills --model demo/part.ead --kills 200
    python lab/experiments/station/run.py order disk lock speed paced overload swaps

Each item starts a station with the detector and sends it images of demo parts.
"""

import argparse
import re
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import efficientad
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import Run, write_run
from lab.experiments.station.harness import (
    Load,
    StationProcess,
    faults,
    kill_repeatedly,
    request,
)
from lab.experiments.station.traffic import (
    N_PARTS,
    Settings,
    content,
    memory_mib,
    open_loop,
    part,
    post,
    rate_of,
    service_seconds,
    station,
)

RESULTS = Path(__file__).with_name("results")
_OK, _CREATED, _OVERLOADED, _UNAVAILABLE = 200, 201, 429, 503


def kills(settings: Settings, folder: Path) -> dict[str, Any]:
    """Item 1: kill parent and inspector; what was answered is there exactly once."""
    rng = np.random.default_rng(settings.seed)
    expected = expected_decisions(settings.model)
    with station(settings, folder) as process:
        rate = 0.8 / service_seconds(process.port)

        def image_of(number: int) -> tuple[bytes, str]:
            return content(number), expected[number % N_PARTS]

        load = Load(process.port, image_of, seconds_between=3 / rate)
        with load.running(3):
            taken = kill_repeatedly(
                process,
                load,
                n_kills=settings.kills,
                pauses=lambda: rng.uniform(0, 0.5),
            )
        process.stop()
    seconds, used = zip(*taken, strict=True)
    found = faults(folder / "data", load.sent)
    print(*found, sep="\n")
    return {
        "n_kills": settings.kills,
        "n_answered": len(load.sent),
        "n_faults": len(found),
        "n_undecided": sum(s.inspection["decision"] == "undecided" for s in load.sent),
        "ready_seconds_max": max(seconds),
        "ready_seconds_median": float(np.median(seconds)),
        "ready_cpu_seconds_max": max(used),
        "ready_cpu_seconds_median": float(np.median(used)),
    }


def expected_decisions(model: Path) -> list[str]:
    """Return the decision of the library for each part."""
    predictor = efficientad.load(model)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "part.png"
        found = []
        for number in range(N_PARTS):
            path.write_bytes(part(number))
            is_anomalous = predictor.predict(path).is_anomalous
            found.append("anomalous" if is_anomalous else "normal")
    return found


def order(settings: Settings, folder: Path) -> dict[str, Any]:
    """Item 1: file, rename, folder and commit are on the disk before the answer."""
    traced = "trace=fsync,fdatasync,rename,renameat,renameat2,sendto,write,writev"
    log = folder / "strace"
    prefix = ("strace", "-f", "-y", "-s", "200", "-e", traced, "-o", str(log))
    with station(settings, folder, prefix=prefix) as process:
        post(process.port, 0)
        before = log.stat().st_size
        n_requests = 20
        for number in range(n_requests):
            post(process.port, number + 1)
        text = log.read_bytes()[before:].decode(errors="replace")
    steps = re.compile(
        r"(?P<file>fsync\(\d+<[^>]*\.part>)|(?P<rename>rename\w*\([^)]*\.part\")|"
        r"(?P<folder>fsync\(\d+<[^>]*/media/\d{4}-[^>.]*>)|"
        r"(?P<commit>(fsync|fdatasync)\(\d+<[^>]*station\.db-wal>)|"
        r"(?P<answer>(sendto|write|writev)\(.*HTTP/1\.1 201)"
    )
    found = " ".join(str(match.lastgroup) for match in steps.finditer(text))
    whole = re.compile(r"file rename (folder )+(commit )+answer")
    n_in_order = len(whole.findall(found))
    return {"n_requests": n_requests, "n_in_order": n_in_order}


def disk(settings: Settings, folder: Path) -> dict[str, Any]:
    """Item 2: a full file system of 64 MB; then room again."""
    place = folder / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    subprocess.run(mount, check=True)  # noqa: S603
    try:
        with station(settings, place) as process:
            filler = place / "filler"
            stored = [post(process.port, n, f"key-{n}")[0] for n in range(5)]
            free = shutil.disk_usage(place).free
            filler.write_bytes(bytes(free - 2**20 - 2**16))
            refused = [post(process.port, n, f"key-{n}") for n in range(5, 60)]
            filler.unlink()
            ready = process.wait_ready()
            again = [post(process.port, n, f"key-{n}")[0] for n in range(60)]
            process.stop()
        n_rows = rows_of(place / "data")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S603, S607
    unavailable = [seconds for status, seconds in refused if status == _UNAVAILABLE]
    return {
        "n_unavailable": len(unavailable),
        "unavailable_seconds_max": max(unavailable, default=0.0),
        "n_other_errors": sum(s not in {_OK, _CREATED, 503} for s, _ in refused),
        "ready_seconds": ready,
        "n_answered_at_last": sum(s in {_OK, _CREATED} for s in again),
        "n_rows": n_rows,
        "n_before": stored.count(_CREATED),
    }


def rows_of(data: Path) -> int:
    """Return the number of stored inspections."""
    with sqlite3.connect(data / "station.db") as connection:
        n_rows: int = connection.execute("SELECT count(*) FROM inspections").fetchone()[
            0
        ]
    connection.close()
    return n_rows


def lock(settings: Settings, folder: Path) -> dict[str, Any]:
    """Item 2: another program locks the database, for 30 s in the whole form."""
    with station(settings, folder) as process:
        post(process.port, 0)
        other = sqlite3.connect(folder / "data" / "station.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        end = time.monotonic() + min(30.0, settings.seconds)
        answers = []
        while time.monotonic() < end:
            answers.append(post(process.port, 1, "key"))
            time.sleep(0.2)
        other.execute("ROLLBACK")
        other.close()
        ready = process.wait_ready()
        status, _ = post(process.port, 1, "key")
        process.stop()
    return {
        "n_answers": len(answers),
        "n_unavailable": sum(each[0] == _UNAVAILABLE for each in answers),
        "answer_seconds_max": max(each[1] for each in answers),
        "ready_seconds": ready,
        "status_at_last": status,
        "n_rows": rows_of(folder / "data"),
    }


def speed(settings: Settings, folder: Path) -> dict[str, Any]:
    """Item 3: images a second of the station and of bare `predict(path)`, in turn."""
    predictor = efficientad.load(settings.model)
    path = folder / "part.png"
    path.write_bytes(part(0))
    bare, served = [], []
    with station(settings, folder) as process, ThreadPoolExecutor(3) as pool:
        send = partial(post, process.port)
        for _ in range(3):
            bare.append(rate_of(lambda _: predictor.predict(path), 1, settings, pool))
            served.append(rate_of(send, 3, settings, pool))
    ratios = [station / alone for station, alone in zip(served, bare, strict=True)]
    return {"bare_per_second": bare, "station_per_second": served, "ratios": ratios}


def paced(settings: Settings, folder: Path) -> dict[str, Any]:
    """Item 4: parts at 80 % of the capacity, at equal and at random distances."""
    rng = np.random.default_rng(settings.seed)
    with station(settings, folder) as process, ThreadPoolExecutor(3) as pool:
        port = process.port
        capacity = rate_of(lambda n: post(port, n), 3, settings, pool)
        gap = 1 / (0.8 * capacity)
        equal = open_loop(port, settings.seconds, lambda: gap)
        random = open_loop(port, settings.seconds, lambda: rng.exponential(gap))
    metrics: dict[str, Any] = {"capacity_per_second": capacity}
    for name, answers in (("paced", equal), ("poisson", random)):
        accepted = [s for status, s in answers if status == _CREATED]
        p50, p99 = np.quantile(accepted, (0.5, 0.99)).tolist()
        metrics |= {
            f"{name}_p50_seconds": p50,
            f"{name}_p99_seconds": p99,
            f"{name}_n_refused": len(answers) - len(accepted),
        }
    metrics["paced_p99_by_p50"] = (
        metrics["paced_p99_seconds"] / metrics["paced_p50_seconds"]
    )
    metrics["poisson_p99_by_service"] = metrics["poisson_p99_seconds"] * capacity
    return metrics


def overload(settings: Settings, folder: Path) -> dict[str, Any]:
    """Item 5: three times what the station can do."""
    with station(settings, folder) as process, ThreadPoolExecutor(3) as pool:
        port = process.port
        capacity = rate_of(lambda n: post(port, n), 3, settings, pool)
        before = memory_mib(process.pid)
        live: list[float] = []
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(0.05):
                start = time.monotonic()
                request(port, "GET", "/health/live")
                live.append(time.monotonic() - start)

        watcher = threading.Thread(target=watch)
        watcher.start()
        answers = open_loop(port, settings.seconds, lambda: 1 / (3 * capacity))
        is_over.set()
        watcher.join()
        after = memory_mib(process.pid)
    accepted = [s for status, s in answers if status == _CREATED]
    refused = [s for status, s in answers if status == _OVERLOADED]
    return {
        "capacity_per_second": capacity,
        "n_accepted": len(accepted),
        "n_refused": len(refused),
        "n_other": len(answers) - len(accepted) - len(refused),
        "accepted_p99_seconds": float(np.quantile(accepted, 0.99)),
        "refused_p99_seconds": float(np.quantile(refused, 0.99)),
        "live_p99_seconds": float(np.quantile(live, 0.99)),
        "memory_growth_mib": after - before,
    }


def swaps(settings: Settings, folder: Path) -> dict[str, Any]:
    """Item 6: ten activations of two models under load, then an end with 5 streams."""
    other = folder / "other.ead"
    calibration = efficientad.threshold(settings.model)
    efficientad.threshold(settings.model, other, at=1.1 * calibration.threshold)
    with station(settings, folder) as process:
        port = process.port
        service = service_seconds(port)
        place = "/api/v1/models?name=other.ead"
        request(port, "POST", place, other.read_bytes())
        _, listed = request(port, "GET", "/api/v1/models")
        hashes = re.findall(rb'"sha256":"([0-9a-f]{64})"', listed)
        done: list[tuple[int, float]] = []
        is_over = threading.Event()

        def send(client: int) -> None:
            number = client
            while not is_over.is_set():
                status, _ = post(port, number)
                done.append((status, time.monotonic()))
                number += 2

        clients = [threading.Thread(target=send, args=(n,)) for n in range(2)]
        for client in clients:
            client.start()
        statuses = []
        for number in range(10):
            body = b'{"model": "%s"}' % hashes[number % 2]
            headers = {"Content-Type": "application/json"}
            statuses.append(
                request(port, "POST", "/api/v1/activations", body, headers)[0]
            )
        is_over.set()
        for client in clients:
            client.join()
        gaps = np.diff([at for _, at in done])
        end_seconds = ended_with_streams(process)
    return {
        "n_activations": statuses.count(202),
        "n_failed": sum(status != _CREATED for status, _ in done),
        "n_answered": len(done),
        "gap_by_service": float(gaps.max() / service),
        "service_seconds": service,
        "end_with_5_streams_seconds": end_seconds,
    }


def ended_with_streams(process: StationProcess) -> float:
    """Return how many seconds a station with five streams of events takes to end."""
    curl = ["curl", "-sN", f"http://127.0.0.1:{process.port}/api/v1/events"]
    streams = [
        subprocess.Popen(curl, stdout=subprocess.DEVNULL)  # noqa: S603
        for _ in range(5)
    ]
    time.sleep(1)
    seconds = process.stop()
    for stream in streams:
        stream.wait()
    return seconds


ITEMS: dict[str, Callable[[Settings, Path], dict[str, Any]]] = {
    "kills": kills,
    "order": order,
    "disk": disk,
    "lock": lock,
    "speed": speed,
    "paced": paced,
    "overload": overload,
    "swaps": swaps,
}


def main() -> None:
    """Run and record items."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("items", nargs="+", choices=ITEMS)
    parser.add_argument("--model", type=Path, default=Path("demo/part.ead"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    settings = Settings(given.model.resolve(), given.kills, given.seconds, given.seed)
    for item in given.items:
        with tempfile.TemporaryDirectory() as name:
            metrics = ITEMS[item](settings, Path(name))
        run: Run = {
            "experiment": "station",
            "category": "demo_parts",
            "variant": item,
            "seed": settings.seed,
            "settings": {"kills": settings.kills, "seconds": settings.seconds},
            "metrics": metrics,
        }
        print(write_run(run | environment(), RESULTS), metrics, flush=True)


if __name__ == "__main__":
    main()
