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
