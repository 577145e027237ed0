"""Log records of the package as lines on stderr, and none of image libraries."""

import ctypes
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from efficientad.names import printable

_IMAGE_LIBRARIES = ("PIL", "tifffile")


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
