"""One request and its answer, as an ASGI application receives and sends them."""

import asyncio
import logging
import re
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

_LOG = logging.getLogger("lockstep.serving")
_LINE_END = re.compile(rb"[\r\n\0]")
_FAILED = b'{"detail": "server: failed by a fault of its own, which is in its log."}'


class Caller(Protocol):
    """What an exchange needs of the connection that it came by."""

    async def writable(self) -> None:
        """Wait until the caller has taken enough of what was written."""

    def wants_body(self) -> None:
        """Read on, and say so to a caller that asked (``Expect: 100-continue``)."""

    def answer(self, exchange: "Exchange", status: int, head: bytes, body: bytes) -> None:
        """Write an answer whose further header lines are ``head``."""


class Exchange:
    """A request whose body arrives, and the place of its answer."""

    __slots__ = ("_caller", "_closes", "_ended", "_event", "_head", "_parts", "_status",
                 "answered", "body", "gone", "keeps", "scope", "whole")  # fmt: skip

    def __init__(self, caller: Caller, scope: Scope, *, keeps: bool):
        self.scope, self.keeps = scope, keeps
        self.body = bytearray()  # what has arrived and was not received yet
        self.whole = False  # nothing more arrives
        self.gone = False  # nobody waits for the answer
        self.answered = False
        self._caller, self._ended = caller, False
        self._event: asyncio.Event | None = None
        self._status, self._head, self._parts = 0, b"", bytearray()

    def arrived(self) -> None:
        """Wake the application, if it waits for more of the body or for its end."""
        if self._event:
            self._event.set()

    def leave(self) -> None:
        """Drop the exchange: its caller is gone or has been answered otherwise."""
        self.gone = True
        self.arrived()

    async def run(self, application: ASGIApp) -> None:
        """Have the application answer; what it fails of is in the log."""
        try:
            await application(self.scope, self.receive, self.send)
            if not self.answered and not self.gone:
                raise RuntimeError(f"{self.scope['path']}: no answer, expected one")
        except Exception:
            if self.gone:
                return
            _LOG.exception("a request failed")
            head = b"content-type: application/json\r\nconnection: close\r\n"
            self.keeps = False
            self._finish(500, head, _FAILED)

    async def receive(self) -> Message:
        """The next piece of the body; once all is received, the end of the connection."""
        while not (self.gone or self.answered):
            if self.body or (self.whole and not self._ended):
                piece, self.body = bytes(self.body), bytearray()
                self._ended = self.whole
                return {"type": "http.request", "body": piece, "more_body": not self.whole}
            if not self.whole:
                self._caller.wants_body()
            self._event = asyncio.Event()
            await self._event.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Gather the answer and write it in one go when it is complete."""
        if message["type"] == "http.response.start":
            lines = []
            for name, value in message.get("headers", []):
                if _LINE_END.search(name) or _LINE_END.search(value):
                    raise ValueError(f"{name!r}: a header with the end of a line in it")
                if name == b"connection" and value.lower() == b"close":
                    self.keeps = False
                elif name not in (b"content-length", b"connection", b"transfer-encoding"):
                    lines.append(b"%s: %s\r\n" % (name, value))
            self._status, self._head = message["status"], b"".join(lines)
            return
        self._parts += message.get("body", b"")
        if not message.get("more_body"):
            await self._caller.writable()
            if not self.gone:
                self._finish(self._status, self._head, bytes(self._parts))

    def _finish(self, status: int, head: bytes, body: bytes) -> None:
        self.answered = True
        self._caller.answer(self, status, head, body)


def answer_bytes(status: int, head: bytes, body: bytes, *, keeps: bool, empty: bool) -> bytes:
    """An answer as it is written; ``empty``: to HEAD, which has the length of the body only."""
    return b"HTTP/1.1 %d %s\r\n%scontent-length: %d\r\n%s\r\n%s" % (
        status, HTTPStatus(status).phrase.encode(), head, len(body),
        b"" if keeps else b"connection: close\r\n", b"" if empty else body,
    )  # fmt: skip
