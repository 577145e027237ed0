"""Changes of the whole process, which only a command line may make."""

import ctypes
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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
