"""Ctrl-C between two steps, never within one.

Half a step cannot be resumed to the same bits: the running statistics of batch
normalization may be those of the next step already, and the weights not yet.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C; a second one ends the program as usual.

    Outside the main thread, where Python gets no signals, nothing changes.

    Returns:
        Says whether there was one.
    """
    was_interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield was_interrupted.is_set
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        was_interrupted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, note)
    try:
        yield was_interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, before)
