"""Being asked to stop: by Ctrl-C, by a scheduler, by a spot machine that goes away."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signal() -> Iterator[Callable[[], int]]:
    """Within this, SIGTERM and SIGINT are noted, not obeyed: the given function tells which came.

    0 means none. A second signal ends the process at once, for those who cannot wait. Outside the
    main thread (a notebook's helper) signals are left alone.
    """
    received = [0]

    def note(number: int, _: FrameType | None) -> None:
        received[0] = number
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
