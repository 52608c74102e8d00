"""``POST /predict``: from the bytes of a request to the bytes of its answer."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from starlette.types import Message, Receive

from lockstep.answers.predictor import Predictor
from lockstep.ground.errors import DataError
from lockstep.serving.batching import Batching
from lockstep.serving.limits import Limits, Refused, busy
from lockstep.serving.memory import give_back
from lockstep.serving.metrics import Metrics
from lockstep.serving.reading import Reading

_LARGE = 1 << 20  # bytes of a body whose memory is given back
_GIVING = 1.0  # seconds between two times, at least
_READERS = 1  # a picture of the largest size takes 90 MB while it is read


class Gone(Exception):
    """The caller closed the connection before the end of its request."""


@dataclass(eq=False)
class _Body:
    """What has arrived of a request's body, and the time that it may take."""

    time: asyncio.Timeout
    content: bytearray = field(default_factory=bytearray)
    dropped: bool = False  # to make room for others


class Asking:
    """Predictions for callers of the web, within limits."""

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics):
        self._limits, self._metrics = limits, metrics
        self._reading = Reading(predictor, limits)
        self._batching = Batching(predictor.answers, limits, metrics.computed)
        self._readers = ThreadPoolExecutor(_READERS, "reading")
        self._under_way = self._whole = 0  # requests, and those of them that have arrived
        self._held = self._whole_held = 0  # bytes of their bodies
        self._gave = 0.0  # when memory was given back last
        self._arriving: dict[_Body, None] = {}  # the one that takes longest first
        metrics.watch(lambda: len(self._batching), lambda: self._under_way)

    @property
    def ready(self) -> bool:
        """Whether one more request would be taken, however large its body.

        Bodies that have not arrived whole make room for it.
        """
        limits = self._limits
        return (
            self._whole < limits.requests
            and len(self._batching) < limits.waiting
            and self._whole_held + limits.body <= limits.bodies
        )

    async def answer(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The answer as JSON. Raises Refused, or Gone."""
        self._under_way += 1
        began = time.perf_counter()
        try:
            body = await self._body(headers, receive)
            found = await self._answered(headers.get(b"content-type", b"").decode("latin-1"), body)
        except DataError as error:
            raise Refused(400, str(error)) from error
        finally:
            self._under_way -= 1
        self._metrics.took(time.perf_counter() - began)
        return found

    async def _answered(self, kind: str, body: bytes) -> bytes:
        if self._whole >= self._limits.requests:
            raise busy()
        self._make_room(len(body))
        self._whole += 1
        self._held += len(body)
        self._whole_held += len(body)
        kind = kind if "boundary" in kind else kind.lower()
        quick = self._reading.is_quick(kind, body)
        try:
            async with asyncio.timeout(self._limits.answering):
                if quick:
                    rows = self._reading.rows(kind, body)
                else:
                    loop = asyncio.get_running_loop()
                    rows = await loop.run_in_executor(self._readers, self._reading.rows, kind, body)
                return b"[" + b",".join(await self._batching.ask(rows)) + b"]"
        except TimeoutError:
            raise Refused(503, "server: no time to answer; try again soon.") from None
        finally:
            self._whole -= 1
            self._held -= len(body)
            self._whole_held -= len(body)
            if not quick:  # few bytes may be a large picture
                self._give_back()

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, if it is not too large and comes in time."""
        length = headers.get(b"content-length")
        if length and int(length) > self._limits.body:  # the server has seen that it is a number
            raise self._too_large()
        body = None
        try:
            async with asyncio.timeout(self._limits.receiving) as limit:
                message = await receive()
                if message["type"] == "http.request" and not message.get("more_body"):
                    if len(message["body"]) > self._limits.body:
                        raise self._too_large()
                    return message["body"]  # type: ignore[no-any-return]
                body = _Body(limit)
                self._arriving[body] = None
                return await self._received(body, message, receive)
        except TimeoutError:
            if body and body.dropped:
                raise busy() from None
            raise Refused(
                408,
                f"body: found no end of it within {self._limits.receiving:g} s, expected all"
                " of it.",
            ) from None
        finally:
            if body and not body.dropped:
                self._forget(body)

    async def _received(self, body: _Body, message: Message, receive: Receive) -> bytes:
        """What has arrived with a message, and all that follows."""
        while True:
            if message["type"] == "http.disconnect":
                raise Gone
            piece = message.get("body", b"")
            if len(body.content) + len(piece) > self._limits.body:
                raise self._too_large()
            self._make_room(len(piece), body)
            self._held += len(piece)
            body.content += piece
            if not message.get("more_body"):
                return bytes(body.content)
            message = await receive()

    def _make_room(self, count: int, but: _Body | None = None) -> None:
        """Drop bodies that have not arrived, the oldest first, for so many bytes more."""
        while self._held + count > self._limits.bodies:
            body = next((body for body in self._arriving if body is not but), None)
            if body is None:
                raise busy()
            self._forget(body)
            body.dropped = True
            body.time.reschedule(asyncio.get_running_loop().time())

    def _forget(self, body: _Body) -> None:
        del self._arriving[body]
        self._held -= len(body.content)
        if len(body.content) > _LARGE:
            self._give_back()
        body.content = bytearray()

    def _give_back(self) -> None:
        if time.monotonic() > self._gave + _GIVING:
            self._gave = time.monotonic()
            asyncio.get_running_loop().call_later(_GIVING / 2, self._readers.submit, give_back)

    def _too_large(self) -> Refused:
        return Refused(
            413, f"body: expected at most {self._limits.body:,} bytes; send a smaller one."
        )
