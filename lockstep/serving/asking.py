"""``POST /predict``: from the bytes of a request to the bytes of its answer."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from starlette.types import Receive

from lockstep.answers.predictor import Predictor
from lockstep.ground.errors import DataError
from lockstep.serving.batching import Batching
from lockstep.serving.limits import Limits, Refused, busy
from lockstep.serving.metrics import Metrics
from lockstep.serving.reading import Reading

_LARGE = 1 << 16  # bytes of a body whose memory is counted
_READERS = 2


class Gone(Exception):
    """The caller closed the connection before the end of its request."""


class Asking:
    """Predictions for callers of the web, within limits."""

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics):
        self._limits, self._metrics = limits, metrics
        self._reading = Reading(predictor, limits)
        self._batching = Batching(predictor.answers, limits, metrics.computed)
        self._readers = ThreadPoolExecutor(_READERS, "reading")
        self._under_way = self._held = 0
        metrics.watch(lambda: len(self._batching), lambda: self._under_way)

    @property
    def ready(self) -> bool:
        """Whether one more request would be taken, however large its body."""
        limits = self._limits
        return (
            self._under_way < limits.requests
            and len(self._batching) < limits.waiting
            and self._held + limits.body <= limits.bodies
        )

    async def answer(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The answer as JSON. Raises Refused, or Gone."""
        if self._under_way >= self._limits.requests:
            raise busy()
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
        kind = kind if "boundary" in kind else kind.lower()
        try:
            async with asyncio.timeout(self._limits.answering):
                if self._reading.is_quick(kind, body):
                    rows = self._reading.rows(kind, body)
                else:
                    loop = asyncio.get_running_loop()
                    rows = await loop.run_in_executor(self._readers, self._reading.rows, kind, body)
                return b"[" + b",".join(await self._batching.ask(rows)) + b"]"
        except TimeoutError:
            raise Refused(503, "server: no time to answer; try again soon.") from None

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, if it is not too large and comes in time."""
        most = self._limits.body
        given = headers.get(b"content-length")
        size = int(given) if given else most  # the server has seen that it is a number
        if size > most:
            raise self._too_large()
        held = size if size > _LARGE else 0
        if self._held + held > self._limits.bodies:
            raise busy()
        self._held += held
        try:
            async with asyncio.timeout(self._limits.receiving):
                return await self._received(receive)
        except TimeoutError:
            raise Refused(
                408,
                f"body: found no end of it within {self._limits.receiving:g} s, expected all"
                " of it.",
            ) from None
        finally:
            self._held -= held

    async def _received(self, receive: Receive) -> bytes:
        message = await receive()
        if not message.get("more_body") and message["type"] == "http.request":
            return message.get("body", b"")  # type: ignore[no-any-return]
        content = bytearray()
        while True:
            if message["type"] == "http.disconnect":
                raise Gone
            content += message.get("body", b"")
            if len(content) > self._limits.body:
                raise self._too_large()
            if not message.get("more_body"):
                return bytes(content)
            message = await receive()

    def _too_large(self) -> Refused:
        return Refused(
            413, f"body: expected at most {self._limits.body:,} bytes; send a smaller one."
        )
