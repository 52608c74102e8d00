"""One caller's connection: what it may send and leave unread, how long, and how many there are."""

import asyncio
import json
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from lockstep.serving.limits import Limits, Refused, busy

_STATUS = {
    400: b"400 Bad Request",
    408: b"408 Request Timeout",
    431: b"431 Request Header Fields Too Large",
    503: b"503 Service Unavailable\r\nretry-after: 1",
}


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with limits on the time to send a request and to read its answer."""

    limits: ClassVar[Limits] = Limits()
    _in_head = False
    _offered = False  # another protocol, by the head that was parsed last
    _why: Refused | None = None  # a readable request is not taken
    _size = 0  # bytes of the head, after the piece that it began in
    _patience: asyncio.TimerHandle | None = None  # runs while no request is under way
    _taking: asyncio.TimerHandle | None = None  # runs while the caller is to take what was written
    _answering: RequestResponseCycle | None = None  # ``cycle`` is the last one that came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._why = busy()  # sent once the request has arrived
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        self._taken()
        if self._answering:  # else it would write to a closed connection, and log that
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._to_be_taken()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken()
        if self.transport.is_closing():
            self._to_be_taken()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._to_be_taken()

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self._hang_up()

    def data_received(self, data: bytes) -> None:
        before = self.scope
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(self._why or Refused(400, "request: found no readable HTTP."))
        if self.transport.is_closing():
            return
        if self._in_head and self.scope is before:
            self._size += len(data)
            if self._size > self.limits.head:
                self._refuse(self._too_long())
                return
        if not self._patience and (self._in_head or self._answered):
            self._wait()

    def _parse(self, data: bytes) -> None:
        """Parse all of it; another protocol that is offered is not taken (RFC 9110, 7.8).

        The parser ends a request at the offer, so its head is read again without.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                if not self._offered:  # CONNECT: what follows is no HTTP
                    return
                rest = memoryview(rest)[offer.args[0] :]
            self._offered = False
            version = self.parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
            lines += [b"%s: %s" % pair for pair in self.headers if pair[0] != b"upgrade"]
            # A new one, for to this one "Connection: close" was the end. Lenient as uvicorn's is.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(b"\r\n".join((*lines, b"", b"")))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_no_more()
        self._in_head, self._size = True, 0

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(text) + 4 for name, text in self.headers)
        if size > self.limits.head:
            self._why = self._too_long()
        if self._why:
            raise self._why  # which the parser makes an error of its own
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offered = True
            return
        self._wait_no_more()
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._offered:
            super().on_message_complete()

    def _too_long(self) -> Refused:
        return Refused(431, f"head: expected at most {self.limits.head:,} bytes; send fewer.")

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._patience = self.loop.call_later(self.limits.receiving, self._give_up)

    def _wait_no_more(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None

    def _to_be_taken(self) -> None:
        if not self._taking:
            self._taking = self.loop.call_later(self.limits.sending, self.transport.abort)

    def _taken(self) -> None:
        if self._taking:
            self._taking.cancel()
            self._taking = None

    def _hang_up(self) -> None:
        self.transport.close()  # once all is taken
        self._to_be_taken()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _give_up(self) -> None:
        if not self._answered:  # another request of this caller, which came whole
            self._wait()
        elif self._in_head:
            problem = f"found no end of it within {self.limits.receiving:g} s, expected all of it."
            self._refuse(Refused(408, f"head: {problem}"))
        else:
            self._hang_up()

    def _refuse(self, why: Refused) -> None:
        self._wait_no_more()
        body = json.dumps({"detail": str(why)}).encode()
        self.transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (_STATUS[why.status], len(body), body)
        )
        self._hang_up()
