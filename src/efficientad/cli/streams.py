"""Standard streams that end no verb, be they absent, closed or on a full disk."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast


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


def names_from_input(path: Path) -> list[Path]:
    """Return the paths that standard input names, one a line, for `-`; others as is."""
    if str(path) != "-":
        return [path]
    lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
    return [Path(os.fsdecode(line)) for line in lines if line]


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
