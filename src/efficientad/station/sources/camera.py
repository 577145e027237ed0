"""A camera, or a video file: frames of a program, in the place that the mode gives.

The program writes frames as PPM to its standard output: our own with PyAV, or any
other, such as GStreamer with a GenICam camera. It is killed and started again when no
frame comes.
"""

import hashlib
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, NamedTuple

from PIL import Image

from efficientad.errors import EfficientADError, ImageError
from efficientad.images.decoding import N_FIRST_BYTES
from efficientad.images.rgb import RGBImage
from efficientad.station.config import Camera
from efficientad.station.errors import ConflictError, UnavailableError
from efficientad.station.prediction.pipeline import Station
from efficientad.station.prediction.records import Answer, Arrival
from efficientad.station.sources.ppm import read_frame
from efficientad.station.storage import registry
from efficientad.station.storage.queries import new_id

_CAPTURE: Final = (sys.executable, "-m", "efficientad.station.sources.capture")
_AT_ONCE: Final = 2
_MAX_WAITING: Final = 8
_OPEN_SECONDS: Final = 30.0
_END_SECONDS: Final = 2.0
_N_LINES: Final = 20
_LOOK_SECONDS: Final = 0.25
_PAUSES: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)


class _Frame(NamedTuple):
    number: str
    pixels: RGBImage
    at: datetime
    key: str | None


class CameraSource:
    """Inspects frames of a camera or a video, in threads of its own."""

    def __init__(self, camera: Camera, station: Station) -> None:
        self._camera = camera
        self._station = station
        self._command = camera.command or (*_CAPTURE, camera.address)
        file = Path(camera.address)
        status = file.stat() if camera.address and file.is_file() else None
        self._version = status and f"{status.st_mtime_ns}-{status.st_size}"
        self._waiting: deque[_Frame] = deque()
        self._triggers: deque[str] = deque()
        self._change = threading.Condition()
        self._under_way = threading.BoundedSemaphore(_AT_ONCE)
        self._process: subprocess.Popen[bytes] | None = None
        self._last_frame = self._last_taken = time.monotonic()
        self._has_frames = False
        self._is_running = True
        self._is_closing = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"camera {camera.name}", daemon=True)
            for work in (self._read, self._inspect, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def trigger(self) -> str:
        """Ask for the next frame, and return the number of its inspection.

        Raises:
            ConflictError: If the source takes no triggers, rests, or has too many.
        """
        if self._camera.mode != "trigger" or not self._is_running:
            raise ConflictError(
                f"a running source in the mode trigger was needed, {self._camera.name} "
                f"is {'running' if self._is_running else 'paused'} in the mode "
                f"{self._camera.mode}"
            )
        with self._change:
            if len(self._triggers) + len(self._waiting) >= _MAX_WAITING:
                raise ConflictError(
                    f"{_MAX_WAITING} triggers at most wait for frames; trigger less "
                    "often, or look at the camera"
                )
            self._triggers.append(number := new_id())
        return number

    def close(self) -> None:
        """End the program and the threads; what they have begun is finished."""
        self._is_closing.set()
        self._kill()
        for thread in self._threads:
            thread.join()

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    def _watch(self) -> None:
        """Look whether the source is paused, and whether frames come."""
        reader = self._threads[0]  # it ends with a video file
        while reader.is_alive() and not self._is_closing.wait(_LOOK_SECONDS):
            database, name = self._station.database, self._camera.name
            with suppress(UnavailableError):  # the database is away; it stays as it is
                self._is_running = database.read(registry.is_running, name)
            limit = self._camera.stall_seconds
            if limit and not self._has_frames:
                limit = max(limit, _OPEN_SECONDS)
            if limit and time.monotonic() - self._last_frame > limit:
                self._last_frame = time.monotonic()
                self._report(f"no frame came for {limit:g} seconds")
                self._kill()

    def _read(self) -> None:
        n_failures = 0
        while not self._is_closing.wait(_PAUSES[min(n_failures, len(_PAUSES) - 1)]):
            n_frames, problem = self._run()
            if self._is_closing.is_set() or (self._version and not problem):
                return  # a video file ends
            n_failures = 0 if n_frames else n_failures + 1
            self._report(problem or "the program ended")

    def _run(self) -> tuple[int, str]:
        """Run the program to its end; return its frames, and why it has failed."""
        n_frames, problem = 0, ""
        self._has_frames, self._last_frame = False, time.monotonic()
        try:
            self._process = process = subprocess.Popen(  # noqa: S603 - of the settings
                self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            return 0, f"{self._command[0]} cannot be run ({error.strerror})"
        if self._is_closing.is_set():
            process.kill()
        assert process.stdout is not None
        assert process.stderr is not None
        said: deque[bytes] = deque(maxlen=_N_LINES)
        args = (said, process.stderr)
        errors = threading.Thread(target=_read_lines, args=args, daemon=True)
        errors.start()
        with process.stdout as stream:
            try:
                while (pixels := read_frame(stream.read)) is not None:
                    self._has_frames, self._last_frame = True, time.monotonic()
                    self._offer(pixels, n_frames)
                    n_frames += 1
            except ImageError as error:
                problem = str(error)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        if process.wait():
            errors.join(_END_SECONDS)  # its own children may keep the pipe open
            lines = [line.decode(errors="replace").strip() for line in tuple(said)]
            problem = next(filter(None, reversed(lines)), "")
            problem = problem or f"the program ended with {process.returncode}"
        return n_frames, problem

    def _offer(self, pixels: RGBImage, n: int) -> None:
        """Queue a frame for its inspection, if the mode wants it."""
        key = self._version and f"{self._version}-{n}"
        with self._change:
            while self._version and self._must_wait():
                self._last_frame = time.monotonic()
                self._change.wait(_LOOK_SECONDS)
            if not self._is_running or self._is_closing.is_set():
                return
            number = new_id()
            match self._camera.mode:
                case "trigger":
                    if not self._triggers:
                        return
                    number = self._triggers.popleft()
                case "interval":
                    if self._last_frame - self._last_taken < self._camera.seconds:
                        return
                    self._last_taken = self._last_frame
            frame = _Frame(number, pixels, datetime.now(UTC), key)
            if self._camera.mode in {"free", "interval"} and self._waiting:
                self._waiting.clear()
                self._station.metrics.dropped.labels(self._camera.name).inc()
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append(frame)
                self._change.notify_all()
                return
        self._overrun(frame)

    def _must_wait(self) -> bool:
        """Return whether a video file has to wait: no frame of it is lost."""
        if self._is_closing.is_set():
            return False
        is_full = self._camera.mode == "every" and len(self._waiting) >= _MAX_WAITING
        return is_full or not self._is_running

    def _inspect(self) -> None:
        while not self._is_closing.is_set():
            with self._change:
                if not self._waiting:
                    self._change.wait(_LOOK_SECONDS)
                    continue
            if not self._under_way.acquire(timeout=_LOOK_SECONDS):
                continue
            if not self._station.wait_for_place(self._camera.name, self._is_closing):
                self._under_way.release()
                return
            with self._change:
                frame = self._waiting.popleft()
                self._change.notify_all()
            self._submit(frame)

    def _submit(self, frame: _Frame) -> None:
        part = self._station.media.incoming(frame.number)
        try:
            Image.fromarray(frame.pixels).save(part, "PNG", compress_level=1)
            content = part.read_bytes()
        except OSError as error:
            self._station.leave()
            self._fail(frame, self._station.media.failed(error))
            return

        def end(answer: "Future[Answer]") -> None:
            error = answer.exception()
            if error is None:
                self._under_way.release()
            else:
                self._fail(frame, error)

        arrival = self._arrival(frame, content)
        self._station.submit(arrival).add_done_callback(end)

    def _arrival(self, frame: _Frame, content: bytes) -> Arrival:
        return Arrival(
            id=frame.number,
            source=self._camera.name,
            sha256=hashlib.sha256(content).hexdigest(),
            media_bytes=len(content),
            first_bytes=content[:N_FIRST_BYTES],
            received_at=frame.at,
            captured_at=frame.at,
            source_key=frame.key,
        )

    def _fail(self, frame: _Frame, error: BaseException) -> None:
        """Report a frame that is not stored; one that counts waits for another try."""
        is_kept = self._camera.mode in {"trigger", "every"}
        if is_kept and isinstance(error, UnavailableError):
            with self._change:
                self._waiting.appendleft(frame)
        self._under_way.release()
        self._report(f"a frame was not inspected: {error}")

    def _overrun(self, frame: _Frame) -> None:
        """Report a frame that is lost, and store its part as undecided."""
        reason = f"{_MAX_WAITING} frames wait already"
        self._report(f"a frame was lost, {reason}")
        try:
            self._station.give_up(self._arrival(frame, b""), reason)
        except EfficientADError as error:
            self._station.log.warning("camera", error=str(error))

    def _report(self, detail: str) -> None:
        self._station.report("camera", f"{self._camera.name}: {detail}")


def _read_lines(lines: deque[bytes], stream: IO[bytes]) -> None:
    with stream:
        lines.extend(stream)
