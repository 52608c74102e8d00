"""The end of serving: callers are answered or asked to try again, then the process ends."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import cast

import uvicorn

from lockstep.serving.connection import Connection

_TELLING = 0.2  # seconds to answer the callers that got no answer
_LAST = 1.0  # seconds after which nothing is waited for


class Server(uvicorn.Server):
    """uvicorn's server, with a limit on how long it waits for callers when it stops.

    What is under way has ``stopping`` seconds. ``ends`` is called with the exit code once a signal
    has asked to stop.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        stopping: float,
        ends: Callable[[int], None] = lambda _: None,
    ):
        super().__init__(config)
        self._stopping, self._ends = stopping, ends

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._ends(128 + sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self._stopping, self._refuse)
        loop.call_later(self._stopping + _TELLING, self._leave)
        await super().shutdown(sockets)

    @property
    def _connections(self) -> list[Connection]:
        return list(cast(set[Connection], self.server_state.connections))

    def _refuse(self) -> None:
        for connection in self._connections:
            if connection.flow.write_paused:  # its answer has begun, and is not taken
                connection.transport.abort()
        self._cancel()

    def _leave(self) -> None:
        for connection in self._connections:
            connection.transport.abort()
        self._cancel()

    def _cancel(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()  # `Gate` answers its caller


def deadline(stopping: float) -> Callable[[int], None]:
    """What ends this process with an exit code, a second after all was to be answered.

    Python waits for its threads, and one that reads or computes cannot be stopped; nor does the
    loop of the server end while it is kept by one of them.
    """
    asked = SimpleQueue[int]()  # into which a signal's handler may put

    def end() -> None:
        code = asked.get()
        time.sleep(stopping + _LAST)
        os._exit(code)  # without a flush, which could have to wait, too

    threading.Thread(target=end, name="ending", daemon=True).start()
    return asked.put
