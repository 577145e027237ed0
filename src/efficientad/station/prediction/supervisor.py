"""A child process that predicts, watched: one that dies or hangs is replaced.

At most two images are in the child, one that is decoded and one that is predicted; the
others wait here. An image is tried again alone if the child dies with it; the second
time, or if it takes too long, it stays undecided.
"""

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final, Literal

from efficientad.errors import EfficientADError, ModelFileError
from efficientad.station.errors import UnavailableError
from efficientad.station.prediction.inspector import (
    Failed,
    Job,
    OpenPredictor,
    Outcome,
    Ready,
    Undecided,
    run,
)

Lane = Literal["line", "background"]
Report = Callable[[str, str], None]
"""Gets the kind of an incident, and its detail."""

_IN_CHILD: Final = 2
_START_SECONDS: Final = 300.0
_CLOSE_SECONDS: Final = 10.0
_PAUSES: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
_SERVICE_SHARE: Final = 0.1
_FIRST_SERVICE_SECONDS: Final = 0.05
_STOPPED: Final = "the station was stopped"


@dataclass(eq=False)
class _Waiting:
    job: Job
    future: "Future[Outcome]" = field(default_factory=Future)
    n_deaths: int = 0


class Inspector:
    """Predicts with one model in a child process."""

    def __init__(
        self, open_predictor: OpenPredictor, *, seconds: float, report: Report
    ) -> None:
        self._open = open_predictor
        self._seconds = seconds
        self._report = report
        self._lock = threading.Lock()
        self._lanes: dict[Lane, deque[_Waiting]] = {
            "line": deque(),
            "background": deque(),
        }
        self._sent: deque[_Waiting] = deque()
        self._since = 0.0
        self._connection: Connection | None = None
        self._process: BaseProcess | None = None
        self._is_closing = threading.Event()
        self._started: Future[Ready] = Future()
        self.service_seconds = _FIRST_SERVICE_SECONDS
        """Time that one image takes, as a moving mean."""
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    def ready(self) -> Ready:
        """Return facts about the model when it is open for the first time.

        Raises:
            ModelFileError: If it cannot be used.
            UnavailableError: If the child dies before, or takes too long.
        """
        return self._started.result()

    @property
    def is_ready(self) -> bool:
        """Whether a child is there and warm."""
        return self._connection is not None

    @property
    def n_waiting(self) -> int:
        """Number of images that wait or are worked on."""
        with self._lock:
            return len(self._sent) + sum(map(len, self._lanes.values()))

    def submit(self, job: Job, lane: Lane = "line") -> "Future[Outcome]":
        """Return the future outcome of a job; `background` waits for the line's."""
        waiting = _Waiting(job)
        with self._lock:
            if self._is_closing.is_set():  # nobody would take it out of its lane
                waiting.future.set_result(Undecided(_STOPPED))
            else:
                self._lanes[lane].append(waiting)
                self._send()
        return waiting.future

    def close(self) -> None:
        """Finish what waits, for ten seconds at most, and end the child."""
        end = time.monotonic() + _CLOSE_SECONDS
        while self.n_waiting and self._connection and time.monotonic() < end:
            time.sleep(0.02)
        self._is_closing.set()
        if self._process is not None:
            self._process.kill()
        self._keeper.join()

    def _send(self) -> None:
        """Send jobs to the child while it has room. The lock is held."""
        while self._connection is not None and len(self._sent) < self._room():
            lane = self._lanes["line"] or self._lanes["background"]
            if not lane:
                return
            waiting = lane.popleft()
            try:
                self._connection.send(waiting.job)
            except OSError:  # it has just died, which the keeper notices
                lane.appendleft(waiting)
                return
            if not self._sent:
                self._since = time.monotonic()
            self._sent.append(waiting)

    def _room(self) -> int:
        """Return how many images the child may have: a suspect is tried alone."""
        suspects = [*self._sent, *[w for w in self._lanes["line"] if w.n_deaths]]
        return 1 if any(each.n_deaths for each in suspects) else _IN_CHILD

    def _keep(self) -> None:
        n_failures = 0
        while not self._is_closing.wait(_PAUSES[min(n_failures, len(_PAUSES) - 1)]):
            n_failures = 0 if self._live() else n_failures + 1
        self._connection = None
        with self._lock:
            left = [*self._sent, *self._lanes["line"], *self._lanes["background"]]
            self._sent.clear()
            for lane in self._lanes.values():
                lane.clear()
        for waiting in left:
            waiting.future.set_result(Undecided(_STOPPED))
        if not self._started.done():
            self._started.set_exception(UnavailableError(_STOPPED))

    def _live(self) -> bool:
        """Start a child, receive until it ends, and return whether it was ready."""
        context = multiprocessing.get_context("spawn")
        try:
            ours, its = context.Pipe()
            process = context.Process(target=run, args=(its, self._open), daemon=True)
            process.start()
        except OSError as error:  # no process or descriptor is left
            self._report("inspector_died", f"no process starts ({error.strerror})")
            return False
        self._process = process
        if self._is_closing.is_set():  # before it was there to be killed
            process.kill()
        its.close()
        try:
            was_ready = self._opened(ours)
            if was_ready:
                self._receive(ours)
        finally:
            with self._lock:
                self._connection = None
            process.kill()
            process.join()
            ours.close()
        if not self._is_closing.is_set():
            self._blame(f"the process that predicts ended with {process.exitcode}")
        return was_ready

    def _opened(self, connection: Connection) -> bool:
        try:
            first = connection.recv() if connection.poll(_START_SECONDS) else None
        except (EOFError, OSError):
            first = None
        if isinstance(first, Ready):
            with self._lock:
                self._connection = connection
                self._send()
            if not self._started.done():
                self._started.set_result(first)
            return True
        if not self._started.done():
            failure: EfficientADError = UnavailableError(
                "the process that predicts does not start"
            )
            if isinstance(first, Failed):
                failure = ModelFileError(first.reason)
            self._started.set_exception(failure)
            self._is_closing.set()
        return False

    def _receive(self, connection: Connection) -> None:
        """Receive outcomes until the child ends, or takes too long with one."""
        while not self._is_closing.is_set():
            try:
                if connection.poll(0.25):
                    self._take(*connection.recv())
                elif self._is_late():
                    self._give_up()
                    return
            except (EOFError, OSError):
                return

    def _take(self, number: str, outcome: Outcome) -> None:
        with self._lock:
            waiting = next(w for w in self._sent if w.job.number == number)
            self._sent.remove(waiting)
            now = time.monotonic()
            taken = now - self._since
            self.service_seconds += _SERVICE_SHARE * (taken - self.service_seconds)
            self._since = now
            self._send()
        waiting.future.set_result(outcome)

    def _is_late(self) -> bool:
        with self._lock:
            return bool(self._sent) and time.monotonic() - self._since > self._seconds

    def _give_up(self) -> None:
        """Leave the oldest image undecided: it has taken too long."""
        with self._lock:
            oldest = self._sent.popleft()
        reason = f"the prediction took longer than {self._seconds:g} seconds"
        self._report("prediction_hangs", f"{reason}: {oldest.job.number}")
        oldest.future.set_result(Undecided(reason))

    def _blame(self, reason: str) -> None:
        """Line up again what was in the child, or leave it undecided."""
        given_up = []
        with self._lock:
            for waiting in reversed(self._sent):
                waiting.n_deaths += 1
                if waiting.n_deaths > 1:
                    given_up.append(waiting)
                else:
                    self._lanes["line"].appendleft(waiting)
            self._sent.clear()
        self._report("inspector_died", reason)
        for waiting in given_up:
            waiting.future.set_result(Undecided(f"{reason}, twice with this image"))
