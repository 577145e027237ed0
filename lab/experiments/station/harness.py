"""A station as a process, clients that retry, and what must hold after kills."""

import hashlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

INSPECTIONS = "/api/v1/inspections"
_OK, _CREATED = 200, 201
_TIMEOUT = 300.0


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class StationProcess:
    """A station that can be killed and started again."""

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self, seconds: float = _TIMEOUT) -> float:
        """Return how many seconds it takes until images are taken."""
        start = time.monotonic()
        while True:
            with suppress(OSError, http.client.HTTPException):
                if request(self.port, "GET", "/health/ready")[0] == _OK:
                    return time.monotonic() - start
            if time.monotonic() - start > seconds:
                raise TimeoutError(self._log.read_text()[-2000:])
            time.sleep(0.02)

    def inspectors(self) -> list[int]:
        """Return the numbers of the processes that predict."""
        found: list[int] = []
        with suppress(OSError):
            place = Path(f"/proc/{self.pid}/task")
            texts = [(task / "children").read_text() for task in place.iterdir()]
            found += [
                int(pid)
                for pid in " ".join(texts).split()
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
        return found

    def kill(self) -> None:
        """Kill the parent, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def kill_all(self) -> None:
        """Kill all that this process has started, too."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.kill()

    def stop(self, sig: int = signal.SIGTERM, seconds: float = _TIMEOUT) -> float:
        """End the process by a signal, and return how many seconds that takes."""
        assert self._process is not None
        start = time.monotonic()
        self._process.send_signal(sig)
        self._process.wait(seconds)
        return time.monotonic() - start


@contextmanager
def station_process(
    command: Sequence[str], port: int, log: Path
) -> Iterator[StationProcess]:
    """Yield a station that is ready; it is killed at the end, if it still runs."""
    station = StationProcess(command, port, log)
    station.start()
    try:
        station.wait_ready()
        yield station
    finally:
        station.kill_all()


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = _TIMEOUT,
) -> tuple[int, bytes]:
    """Return status and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Sent(NamedTuple):
    """An image whose answer has come."""

    key: str
    sha256: str
    expected: str
    inspection: dict[str, Any]


@dataclass
class Load:
    """Clients that send images, each until it is answered, at a steady rate."""

    port: int
    image_of: Callable[[int], tuple[bytes, str]]
    """Returns an image by its number, and the decision that it must have."""
    seconds_between: float
    sent: list[Sent] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self, n_clients: int) -> Iterator[None]:
        """Send in the background; at the end, wait until all are answered."""
        threads = [threading.Thread(target=self._send) for _ in range(n_clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _send(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number, self._next = self._next, self._next + 1
            started = time.monotonic()
            self._send_one(number)
            time.sleep(max(0.0, started + self.seconds_between - time.monotonic()))

    def _send_one(self, number: int) -> None:
        content, expected = self.image_of(number)
        key = f"key-{number}"
        headers = {"Idempotency-Key": key}
        while True:
            try:
                status, body = request(self.port, "POST", INSPECTIONS, content, headers)
            except (OSError, http.client.HTTPException) as error:
                status, body = 0, b""
                self.statuses[type(error).__name__] += 1
            else:
                self.statuses[str(status)] += 1
            if status in {_OK, _CREATED}:
                digest = hashlib.sha256(content).hexdigest()
                with self._lock:
                    self.sent.append(Sent(key, digest, expected, json.loads(body)))
                return
            time.sleep(0.05)


def kill_repeatedly(
    station: StationProcess,
    load: Load,
    *,
    n_kills: int,
    pauses: Callable[[], float],
) -> list[tuple[float, float]]:
    """Kill parent and inspector in turn; return how long each took to be ready.

    Each time comes with the processor's seconds that the new processes have used: on a
    busy machine, these alone say how long it would take on another one.

    Args:
        station: Station under load.
        load: Its load; nothing is killed before a further image has been answered.
        n_kills: Number of kills.
        pauses: Function that returns the seconds before a kill.
    """
    taken = []
    for number in range(n_kills):
        n_before = len(load.sent)
        while len(load.sent) == n_before:
            time.sleep(0.01)
        time.sleep(pauses())
        start = time.monotonic()
        if number % 2:
            for pid in station.inspectors():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.3)  # until the parent has noticed
        else:
            station.kill()
            station.start()
        station.wait_ready()
        seconds = time.monotonic() - start
        new = (
            station.inspectors() if number % 2 else [*station.inspectors(), station.pid]
        )
        taken.append((seconds, sum(map(cpu_seconds, new))))
    return taken


def cpu_seconds(pid: int) -> float:
    """Return the processor's seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def faults(data: Path, sent: Sequence[Sent]) -> list[str]:
    """List what is wrong with a data folder after all answers have come."""
    connection = sqlite3.connect(data / "station.db")
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute("SELECT * FROM inspections")]
    check = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    found = faults_of(rows, data / "media", sent)
    return found if check == "ok" else [*found, f"database: {check}"]


def faults_of(
    rows: Sequence[dict[str, Any]], media: Path, sent: Sequence[Sent]
) -> list[str]:
    """List what is wrong with inspections and their images, for any database."""
    found = []
    by_key = Counter(row["source_key"] for row in rows)
    by_id = {row["id"]: row for row in rows}
    for each in sent:
        row = by_id.get(each.inspection["id"])
        if by_key[each.key] != 1 or row is None or row["source_key"] != each.key:
            found.append(f"{each.key}: {by_key[each.key]} rows")
            continue
        path = media / row["media_path"]
        content = path.read_bytes() if path.is_file() else b""
        digests = {each.sha256, row["sha256"], hashlib.sha256(content).hexdigest()}
        if len(digests) > 1:
            found.append(f"{each.key}: the image is another one, or gone")
        decisions = {row["decision"], each.inspection["decision"]}
        if len(decisions) > 1 or not decisions <= {each.expected, "undecided"}:
            found.append(f"{each.key}: {decisions}, expected {each.expected}")
    places = {row["media_path"] for row in rows}
    files = {path.relative_to(media) for path in media.rglob("????-??-??/*/*/*.*")}
    found += [f"{path}: no row" for path in files if path.as_posix() not in places]
    found += [f"{key}: {n} rows" for key, n in by_key.items() if key and n > 1]
    return found
