"""Callers of an application in this process, without a server between."""

import asyncio
import json
from typing import Any

from lockstep.serving.gate import Gate

Answer = tuple[int, dict[str, str], bytes]
JSON, PNG = "application/json", "image/png"


async def call(
    app: Gate,
    method: str,
    path: str,
    *body: bytes,
    pause: float = 0,
    until: asyncio.Event | None = None,
    **headers: str,
) -> Answer:
    """Status, headers and body of an answer; the body is sent in the pieces given.

    With a ``pause`` before each, or not before something happened.
    """
    sent: list[dict[str, Any]] = []
    pieces = list(body) or [b""]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        if until:
            await until.wait()
        more = len(pieces) > 1
        return {"type": "http.request", "body": pieces.pop(0), "more_body": more}

    async def send(message: Any) -> None:
        sent.append(message)

    named = [(name.replace("_", "-").lower(), text) for name, text in headers.items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), text.encode()) for name, text in named],
    }  # fmt: skip
    await app(scope, receive, send)
    found = {name.decode(): text.decode() for name, text in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(part.get("body", b"") for part in sent[1:])


def told(answer: Answer) -> tuple[int, str]:
    """Status and detail of a refusal."""
    return answer[0], json.loads(answer[2])["detail"]
