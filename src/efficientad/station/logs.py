"""Structured logs of the station: one JSON object a line on stderr."""

import logging
import sys
from contextlib import suppress
from io import TextIOBase
from typing import Any

import structlog


class _Stderr(TextIOBase):
    """Standard error as it is now; a log that cannot be written stops no inspection."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def configure_logs() -> None:
    """Make the whole process log JSON lines; secrets are never passed to a log."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(_Stderr()),  # type: ignore[arg-type]
    )


def logger() -> Any:
    """Return the logger of the station; its methods take an event and named values."""
    return structlog.get_logger()
