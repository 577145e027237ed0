"""Changes of the whole process, which only a command line may make.

Interrupts wait for the end of a step, freed memory stays, log records become lines on
stderr, and standard streams end no verb, be they absent, closed or on a full disk.
"""

import ctypes
import functools
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

from efficientad.names import printable

_IMAGE_LIBRARIES = ("PIL", "tifffile")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@contextmanager
def held_back_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C; a second one ends the program as usual.

    Half a step cannot be resumed to the same bits: the running statistics of batch
    normalization may be those of the next step already, and the weights not yet.

    Outside the main thread, where Python gets no signals, nothing changes; nor where
    Ctrl-C is ignored, as in jobs that a shell runs in the background.

    Returns:
        Function that returns whether there was one.
    """
    was_interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is signal.SIG_IGN:
        yield was_interrupted.is_set
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        was_interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield was_interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@functools.cache
def keep_freed_memory() -> None:
    """Make this process reuse the memory of freed tensors instead of returning it.

    By default glibc returns every large block to the system and gets it back page by
    page, which doubled the time of a training step. No effect on another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class _StderrHandler(logging.Handler):
    """Prints records, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "efficientad: " if record.levelno >= logging.WARNING else ""
        text = prefix + printable(self.format(record))
        if "tqdm" in sys.modules:  # importing it would slow down every verb
            sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)
        sys.stderr.flush()


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Print what the package logs from level INFO on, inside the context.

    Pillow, its libtiff and tifffile say nothing there: a file that is refused has a
    sentence.
    """
    logger = logging.getLogger("efficientad")
    handler, level = _StderrHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    silent = logging.NullHandler()
    for name in _IMAGE_LIBRARIES:
        logging.getLogger(name).addHandler(silent)
    try:
        with warnings.catch_warnings(), _silent_libtiff():
            for name in _IMAGE_LIBRARIES:
                warnings.filterwarnings("ignore", module=rf"{name}\b")
            yield
    finally:
        for name in _IMAGE_LIBRARIES:
            logging.getLogger(name).removeHandler(silent)
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Keep the C library from writing to stderr; its errors reach Python all the same.

    Pillow is linked with it, so it is found through Pillow, except on Windows.
    """
    from PIL import _imaging

    set_handler = getattr(ctypes.CDLL(_imaging.__file__), "TIFFSetErrorHandler", None)
    if set_handler is None:
        yield
        return
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    handler = set_handler(None)
    try:
        yield
    finally:
        set_handler(handler)


class _LastingStream:
    """A text stream that loses what cannot be written, and remembers the error."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self.error = error
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Write what is left, and lose it where Python would fail on it at its end."""
        try:
            self._stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def names_from_input(name: str) -> list[str]:
    """Return the names that standard input has, one a line, for `-`; others as is."""
    if name != "-":
        return [name]
    lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
    return [os.fsdecode(line) for line in lines if line]


@contextmanager
def lasting_streams() -> Iterator[Callable[[], OSError | None]]:
    """Keep the errors of standard streams away from what runs in the context.

    Returns:
        Function that returns the error of standard output, if there was one.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("r+", encoding="utf-8")  # noqa: SIM115
            # It stays open: the next file would else have this stream's number.
            setattr(sys, name, nowhere)
    streams = [_LastingStream(stream) for stream in (sys.stdout, sys.stderr)]
    output, errors = (cast("TextIO", stream) for stream in streams)
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            yield lambda: streams[0].error
    finally:
        for stream in streams:
            stream.close()
