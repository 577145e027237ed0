"""Log records of the package as lines on stderr."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _StderrHandler(logging.Handler):
    """Prints the message of a record, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            text = f"efficientad: {text}"
        # Without tqdm there is no bar, and importing it would slow down every verb.
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)
        sys.stderr.flush()


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Print what the package logs, from level INFO on, while the context lasts."""
    logger = logging.getLogger("efficientad")
    handler, level = _StderrHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
