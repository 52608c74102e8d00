"""Callers' connections: HTTP/1.1, parsed by httptools, for an ASGI application, within limits.

Whoever has to move next, the caller or the server, decides: a caller that keeps the server waiting
has a time limit, and makes room for others when there are too many.
"""

import asyncio
import json
from collections import deque
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp

from lockstep.serving.exchange import Exchange, answer_bytes
from lockstep.serving.limits import Limits, Refused, busy

_READ = 1 << 14  # bytes that are read at once
_STEP = 1 << 10  # bytes parsed at once: what they ask for is kept until its turn
_AHEAD = 1 << 16  # bytes of a body that are kept until the application receives them
_UNSENT = 1 << 14  # bytes written and not taken, beyond which no further answer is written
_JSON = b"content-type: application/json\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connections:
    """All connections of a server, the one that was silent longest first."""

    def __init__(self, application: ASGIApp, limits: Limits):
        self.application, self.limits = application, limits
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self.buffer = memoryview(bytearray(_READ))  # filled and parsed before the next one reads
        self.stopping = False
        self._all: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def new(self) -> "Connection":
        """Return the protocol of a connection that begins."""
        return Connection(self)

    def add(self, connection: "Connection") -> bool:
        """Whether there is room for one more, made by one that keeps the server waiting."""
        room = True
        if len(self._all) >= self.limits.connections:
            silent = next((one for one in self._all if one.waits), None)
            room = silent is not None
            if silent:
                self.remove(silent)
                silent.make_room()
        self._all[connection] = None
        return room

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that has ended."""
        self._all.pop(connection, None)

    def heard(self, connection: "Connection") -> None:
        """Note that a connection was not silent."""
        if connection in self._all:
            del self._all[connection]
            self._all[connection] = None

    def start(self, exchange: Exchange) -> None:
        """Have the application answer."""
        task = self.loop.create_task(exchange.run(self.application))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def check(self) -> None:
        """End what has taken too long; to be called several times a second."""
        now = self.loop.time()
        for connection in list(self._all):
            connection.check(now)

    def stop(self) -> None:
        """Make each answer from now on the last one of its connection."""
        self.stopping = True
        for connection in list(self._all):
            connection.hurry()

    def refuse(self) -> None:
        """Tell whoever was not answered that the server stops."""
        for connection in list(self._all):
            connection.give_up()
        for task in list(self.tasks):
            task.cancel()  # `Gate` answers its caller

    def abort(self) -> None:
        """Close all connections, whatever was not taken."""
        for connection in list(self._all):
            connection.abort()


class Connection(asyncio.BufferedProtocol):
    """One caller's connection."""

    _transport: asyncio.Transport

    def __init__(self, connections: Connections):
        self._all, self._limits, self._loop = connections, connections.limits, connections.loop
        self._parser = self._new_parser()
        self._exchange: Exchange | None = None  # the one that is under way
        self._queue: deque[Exchange] = deque()  # those that came with it
        self._rest: bytes = b""  # what came with them and is not parsed yet
        self._refusal: Refused | None = None  # written after the answers to what came before
        self._in_head = self._offered = self._expects = False
        self._size = 0  # bytes of a head, after the piece that it began in
        self._silent = 0  # bytes since the last one of a body: sizes of chunks, trailers
        self._pieces = 0  # of bodies
        self._dropped = 0  # bytes that came after the last request
        self._deaf = False  # nothing more is parsed
        self._closing = self._half = self._reading_paused = False
        self._writable: asyncio.Event | None = None
        self._take_by = 0.0  # when the caller has to have taken what was written
        self._ask_by = self._loop.time() + self._limits.receiving

    # Called by the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._ends = [transport.get_extra_info(name) for name in ("sockname", "peername")]
        transport.set_write_buffer_limits(high=_UNSENT)
        if self._all.stopping:
            self.hurry()
        if not self._all.add(self):
            self._refusal = busy()  # written once a request has arrived

    def connection_lost(self, _: Exception | None) -> None:
        self._all.remove(self)
        self._closing = self._deaf = True
        for exchange in (self._exchange, *self._queue):
            if exchange:
                exchange.leave()
        self._queue.clear()
        self.resume_writing()  # or an answer would wait for ever

    def get_buffer(self, _: int) -> memoryview:
        return self._all.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if not self._deaf:
            self._all.heard(self)
            self._parse_all(self._all.buffer[:nbytes])
            return
        # Read, so that what was written is not lost by a reset, but not without an end.
        self._dropped += nbytes
        if self._dropped > 2 * self._limits.body:
            self._transport.abort()

    def eof_received(self) -> bool:
        self._half = True
        if self._queue and not self._queue[-1].whole:
            self._queue.pop()
        return not self._closing and self._exchange is not None and self._exchange.whole

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()
        self._take_by = self._take_by or self._loop.time() + self._limits.sending

    def resume_writing(self) -> None:
        if self._writable:
            self._writable.set()
            self._writable = None
        if not self._closing:
            self._take_by = 0.0

    # Called by the parser

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", list[tuple[bytes, bytes]]()
        self._in_head, self._expects, self._size = True, False, 0
        self._ask_by = self._loop.time() + self._limits.receiving

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer, of which none is used
            return
        self._headers.append((name.lower(), value))
        if len(self._headers) > self._limits.headers:
            raise self._refused(
                Refused(431, f"head: expected at most {self._limits.headers} headers; send fewer.")
            )

    def on_headers_complete(self) -> None:
        if self._deaf:
            return
        if why := self._refusal or self._fault():
            raise self._refused(why)
        if self._parser.should_upgrade():
            self._offered = True
            return
        self._in_head, self._silent = False, 0
        url = httptools.parse_url(self._url)
        path = url.path or b"/"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._parser.get_http_version(),
            "server": self._ends[0][:2] if self._ends[0] else None,
            "client": self._ends[1][:2] if self._ends[1] else None,
            "scheme": "http",
            "method": self._parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": url.query or b"",
            "headers": self._headers,
        }
        old = scope["http_version"] == "1.0"
        exchange = Exchange(self, scope, keeps=not old and self._parser.should_keep_alive())
        if self._exchange:
            self._queue.append(exchange)
        else:
            self._begin(exchange)

    def on_body(self, body: bytes) -> None:
        self._pieces += 1
        if self._deaf:
            return
        exchange = self._latest
        if exchange:
            exchange.body += body
            exchange.arrived()

    def on_message_complete(self) -> None:
        exchange = self._latest
        if self._offered or self._deaf or not exchange:
            return
        exchange.whole = True
        exchange.arrived()
        if not exchange.keeps:  # what comes behind it is none of HTTP's
            self._deaf = True

    # Called by exchanges

    async def writable(self) -> None:
        while self._writable:
            await self._writable.wait()

    def wants_body(self) -> None:
        if self._expects:
            self._expects = False
            self._transport.write(_CONTINUE)
        self._set_reading()

    def answer(self, exchange: Exchange, status: int, head: bytes, body: bytes) -> None:
        if exchange is not self._exchange or self._transport.is_closing():
            return
        begun = self._in_head and not self._half
        more = bool(self._queue or self._rest or self._refusal or begun)
        last = (self._all.stopping or self._half) and not more
        keeps = exchange.keeps and exchange.whole and not last
        empty = exchange.scope["method"] == "HEAD"
        self._transport.write(answer_bytes(status, head, body, keeps=keeps, empty=empty))
        self._exchange = None
        self._all.heard(self)
        if not keeps:
            self._hang_up()
        elif self._queue:
            self._begin(self._queue.popleft())
            self._go_on()
        elif self._refusal and self._deaf:
            self._tell()
        else:
            limit = self._limits.receiving if self._in_head else self._limits.idle
            self._ask_by = self._loop.time() + limit
            self._go_on()

    # Called by all connections' keeper

    @property
    def waits(self) -> bool:
        """Whether it is the caller who has to move next."""
        computing = self._exchange and self._exchange.whole and not self._writable
        return self._closing or not computing

    def check(self, now: float) -> None:
        """End the connection if its caller has not moved in time."""
        if self._take_by and now > self._take_by:
            self._transport.abort()
        elif self._closing or self._exchange or now < self._ask_by:
            return
        elif self._in_head:
            problem = f"found no end of it within {self._limits.receiving:g} s, expected all of it."
            self._refuse(Refused(408, f"head: {problem}"))
        else:
            self._hang_up()

    def hurry(self) -> None:
        """Give a caller from whom nothing came a moment to ask a last time."""
        if not self._in_head and not self._exchange:
            self._ask_by = min(self._ask_by, self._loop.time() + self._limits.asking)
        if self._closing:
            self._take_by = min(self._take_by, self._loop.time() + self._limits.asking)

    def make_room(self) -> None:
        """Close the connection, with a word if a request of it has begun."""
        begun = self._in_head or (self._exchange and not self._exchange.whole)
        if self._exchange:
            self._exchange.leave()
        if begun and not self._closing and not self._writable:
            self._write_refusal(busy())
            self._transport.close()
        else:
            self._transport.abort()

    def give_up(self) -> None:
        """End what cannot be ended by an answer: the server has to stop now."""
        if self._closing or self._writable:
            self._transport.abort()
        elif not self._exchange:
            if self._in_head:
                self._refuse(Refused(503, "server: stopping, no time to answer; try again soon."))
            else:
                self._hang_up()

    def abort(self) -> None:
        """Close the connection now."""
        self._transport.abort()

    # Its own

    @property
    def _latest(self) -> Exchange | None:
        """The one that arrives."""
        return self._queue[-1] if self._queue else self._exchange

    def _begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._all.start(exchange)

    def _go_on(self) -> None:
        """Parse what came with the requests before."""
        rest, self._rest = self._rest, b""
        self._parse_all(memoryview(rest))

    def _parse_all(self, data: memoryview) -> None:
        """Parse, but not beyond a request that has to wait for the answer to another."""
        while data and not self._queue and not self._deaf:
            piece, data = data[:_STEP], data[_STEP:]
            fresh, pieces = not self._in_head, self._pieces
            try:
                self._parse(piece)
            except httptools.HttpParserError:
                self._refuse(self._refusal or Refused(400, "request: found no readable HTTP."))
                break
            if not self._in_head:
                self._silent = self._silent + len(piece) if self._pieces == pieces else 0
            elif not fresh:
                self._size += len(piece)
            self._check_size()
        self._rest = b"" if self._deaf else bytes(data)
        self._set_reading()

    def _check_size(self) -> None:
        most, latest = self._limits.head, self._latest
        if self._deaf:
            return
        if self._in_head and self._size > most:
            self._refuse(self._too_long())
        elif not self._in_head and latest and not latest.whole and self._silent > most:
            self._refuse(Refused(431, f"trailers: expected at most {most:,} bytes; send fewer."))

    def _parse(self, data: memoryview) -> None:
        """Parse all of it; another protocol that is offered is not taken (RFC 9110, 7.8).

        The parser ends a request at the offer, so its head is read again without.
        """
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                if not self._offered:
                    return
                data = data[offer.args[0] :]
            self._offered = False
            version = self._parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (self._parser.get_method(), self._url, version)]
            lines += [b"%s: %s" % pair for pair in self._headers if pair[0] != b"upgrade"]
            self._parser = self._new_parser()  # to this one "Connection: close" was the end
            self._parser.feed_data(b"\r\n".join((*lines, b"", b"")))

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # Or what comes behind the last request would be an error of this one.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _fault(self) -> Refused | None:
        """What makes a head one that is refused, beyond what the parser refuses."""
        size = len(self._url)
        hosts, encodings, version = 0, list[bytes](), self._parser.get_http_version()
        for name, value in self._headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                encodings.append(value.lower())
            elif name == b"expect":
                self._expects = value.lower() == b"100-continue"
        if size > self._limits.head:
            return self._too_long()
        if self._parser.get_method() == b"CONNECT":
            return Refused(400, "method: found CONNECT, but this is no proxy.")
        if version not in ("1.0", "1.1"):
            return Refused(400, f"version: found HTTP/{version}, expected HTTP/1.1.")
        # Two servers in a row that read one of these differently take part of one request for
        # another (RFC 9112, 3.2 and 6.1).
        if hosts > 1 or (not hosts and version == "1.1"):
            return Refused(400, f"host: found {hosts} of them, expected one.")
        if encodings and (version == "1.0" or encodings != [b"chunked"]):
            return Refused(
                400,
                "transfer-encoding: found another than chunked in HTTP/1.1, expected that or "
                "a content-length.",
            )
        return None

    def _too_long(self) -> Refused:
        return Refused(431, f"head: expected at most {self._limits.head:,} bytes; send fewer.")

    def _refused(self, why: Refused) -> Refused:
        """Return what the parser makes an error of its own."""
        self._refusal = why
        return why

    def _refuse(self, why: Refused) -> None:
        """Refuse what arrives now; what came whole before it is answered first."""
        self._deaf, self._refusal = True, why
        latest = self._latest
        if latest and not latest.whole and not self._in_head:
            if self._queue:
                self._queue.pop()
            else:
                latest.leave()
                self._exchange = None
        if not self._exchange:
            self._tell()

    def _tell(self) -> None:
        if self._refusal:
            self._write_refusal(self._refusal)
        self._hang_up()

    def _write_refusal(self, why: Refused) -> None:
        body = json.dumps({"detail": str(why)}).encode()
        head = _JSON + (b"retry-after: 1\r\n" if why.status == 503 else b"")
        self._transport.write(answer_bytes(why.status, head, body, keeps=False, empty=False))

    def _hang_up(self) -> None:
        """Say that nothing more is written, and read until the caller has closed, too.

        To close with something unread would reset the connection, and what was written be lost.
        """
        if self._closing:
            return
        self._closing = self._deaf = True
        self._queue.clear()
        self._rest = b""
        limit = self._limits.asking if self._all.stopping else self._limits.sending
        self._take_by = self._loop.time() + limit
        if self._half or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        self._set_reading()

    def _set_reading(self) -> None:
        """Read unless there is enough to do."""
        latest = self._latest
        ahead = latest is not None and not latest.whole and len(latest.body) > _AHEAD
        pause = not self._closing and not self._half and (bool(self._rest or self._queue) or ahead)
        if pause != self._reading_paused and not self._transport.is_closing() and not self._half:
            self._reading_paused = pause
            (self._transport.pause_reading if pause else self._transport.resume_reading)()
