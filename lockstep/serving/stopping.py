"""The end of serving: a signal is noted, the listener is emptied, the process ends in time."""

import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType

_LAST = 1.0  # seconds after which nothing is waited for
_SO_ATTACH_FILTER = 26  # of Linux, on x86-64 and aarch64
# For a classic filter of a socket, the TCP header comes first. Byte 13 holds its flags.
_NO_SYN = (
    (0x30, 0, 0, 13),  # load it
    (0x54, 0, 0, 0x12),  # of these SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone, which asks for a new connection,
    (0x06, 0, 0, 0),  # is dropped,
    (0x06, 0, 0, 0xFFFFFFFF),  # anything else taken whole
)


class Stop:
    """A signal to stop, from the first moment on.

    Its handler notes the signal and sets the time by which the process ends, and does nothing else:
    an exception that it raised could be lost in whatever runs at that moment, as in the callback
    of a weak reference while a module is imported.
    """

    number: int | None = None  # of the signal

    def __init__(self, stopping: float):
        self._asked = SimpleQueue[int]()  # into which a signal's handler may put
        end = threading.Thread(target=self._end, args=(stopping,), name="ending", daemon=True)
        end.start()

    def listen(self) -> "Stop":
        """Note the signals that ask this process to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.number = number
        self._asked.put(128 + number)

    def _end(self, stopping: float) -> None:
        """End the process a second after all was to be answered.

        Python waits for its threads, and one that reads or computes cannot be stopped; nor does
        the loop of the server end while it is kept by one of them.
        """
        code = self._asked.get()
        time.sleep(stopping + _LAST)
        os._exit(code)  # without a flush, which could have to wait, too


def take_no_more(listener: socket.socket) -> None:
    """Have the system take no new connection, though those that it has taken can be accepted.

    To close a listening socket resets the connections that wait to be accepted; so callers who
    come later are not answered first, and refused when they try again after it is closed. Where the
    system has no such filter, connections of the last moment may be reset.
    """
    if sys.platform == "linux":
        import ctypes

        code = b"".join(struct.pack("HBBI", *line) for line in _NO_SYN)
        kept = ctypes.create_string_buffer(code)
        program = struct.pack("HP", len(_NO_SYN), ctypes.addressof(kept))
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def is_waited_at(listener: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    return bool(waiting.poll(0))
