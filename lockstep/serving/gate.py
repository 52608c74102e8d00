"""The gate before the application: access, headers of every answer, metrics."""

import asyncio
import hmac
import json
import logging
from collections.abc import Collection, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lockstep.serving.asking import Asking, Gone
from lockstep.serving.limits import Refused
from lockstep.serving.metrics import Metrics

PREDICT = "/predict"
# What SageMaker calls them (docs.aws.amazon.com/sagemaker: "Custom inference code with hosting").
_CALLED = {"/invocations": PREDICT, "/ping": "/healthz"}
# The probes, and the page, which asks for the token itself.
OPEN = {"/", "/healthz", "/readyz"}
_PATHS = OPEN | {PREDICT, "/model", "/metrics", "/openapi.json", "/docs"}
_ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
_MORE = {
    401: [(b"www-authenticate", b"Bearer")],
    405: [(b"allow", b"POST")],
    503: [(b"retry-after", b"1")],
}
_LOG = logging.getLogger("lockstep.serving")


class Gate:
    """An application: predictions are answered here, all else by ``rest``.

    FastAPI takes as long for a request as the model does, so the one path that has to be fast goes
    around it.
    """

    def __init__(
        self,
        rest: ASGIApp,
        asking: Asking,
        metrics: Metrics,
        token: str | None,
        hosts: Collection[str] | None,
    ):
        self._rest, self._asking, self._metrics = rest, asking, metrics
        self._wanted = f"Bearer {token}".encode() if token else None
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = _CALLED.get(scope["path"], scope["path"])
        scope = {**scope, "path": path}
        told = path if path in _PATHS else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(told, message["status"])
                message["headers"] = [*message.get("headers", []), *_ALWAYS]
            await send(message)

        try:
            await self._answer(scope, receive, counted)
        except asyncio.CancelledError:  # the server ends, and this was not done in time
            await _tell(counted, 503, "server: stopping, no time to answer; try again soon.")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], dict(scope["headers"])
        if self._hosts is not None and (host := _host(headers)) not in self._hosts:
            # A page whose name leads to this machine, so that its script may read what we answer.
            known = ", ".join(sorted(self._hosts))
            await _tell(send, 421, f"host: found {host[:80]!r}, expected one of {known}.")
        elif path not in OPEN and not self._admits(headers):
            await _tell(send, 401, "authorization: expected the token of this server.")
        elif path != PREDICT:
            await self._rest(scope, receive, send)
        elif scope["method"] != "POST":
            await _tell(send, 405, f"method: found {scope['method'][:20]}, expected POST.")
        else:
            await self._predict(headers, receive, send)

    def _admits(self, headers: Mapping[bytes, bytes]) -> bool:
        if self._wanted is None:
            return True
        return hmac.compare_digest(headers.get(b"authorization", b""), self._wanted)

    async def _predict(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        try:
            answer = await self._asking.answer(headers, receive)
        except Gone:
            return
        except Refused as refused:
            await _tell(send, refused.status, refused.detail)
        except Exception:
            _LOG.exception("a prediction failed")
            await _tell(send, 500, "server: failed by a fault of its own, which is in its log.")
        else:
            await _send(send, 200, answer, [])


def _host(headers: Mapping[bytes, bytes]) -> str:
    """The name by which the server was called, without its port."""
    name = headers.get(b"host", b"").decode("latin-1").lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


async def _tell(send: Send, status: int, detail: str) -> None:
    content: dict[str, Any] = {"detail": " ".join(detail.split())}
    more = list(_MORE.get(status, []))
    if status in (408, 413):  # the rest of the body is not read
        more.append((b"connection", b"close"))
    await _send(send, status, json.dumps(content).encode(), more)


async def _send(send: Send, status: int, body: bytes, more: list[tuple[bytes, bytes]]) -> None:
    length = b"content-length", str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), length, *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
