"""Log records of the package as lines on stderr."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from efficientad.names import printable


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
    """Print what the package logs from level INFO on, inside the context."""
    logger = logging.getLogger("efficientad")
    handler, level = _StderrHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
