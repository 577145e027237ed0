"""Ctrl-C between two steps, never within one; for command lines.

Half a step cannot be resumed to the same bits: the running statistics of batch
normalization may be those of the next step already, and the weights not yet.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

WasInterrupted = Callable[[], bool]
Interrupts = Callable[[], AbstractContextManager[WasInterrupted]]
"""Context manager that holds back interrupts; its value tells if there was one."""


@contextmanager
def immediate_interrupts() -> Iterator[WasInterrupted]:
    """Leave interrupts as they are: a KeyboardInterrupt at once."""
    yield lambda: False


@contextmanager
def held_back_interrupt() -> Iterator[WasInterrupted]:
    """Hold back the first Ctrl-C; a second one ends the program as usual.

    It changes the signal handlers of the process. Outside the main thread, where Python
    gets no signals, nothing changes; nor where Ctrl-C is ignored, as in jobs that a
    shell runs in the background.
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
