"""Callers who do not take what they asked for, or leave: the others are answered, the log is empty.

What a head may be stands in `test_server.py`.
"""

import asyncio
import re
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lockstep.records.run import Run
from lockstep.serving.limits import Limits
from lockstep.tests.serving.conftest import metrics
from lockstep.tests.serving.test_app import free_port
from lockstep.tests.serving.test_server import GET, found_by, slow
from lockstep.tests.serving.test_stopping import hasty

LONELY = Limits(connections=1)


def narrow() -> socket.socket:
    """A caller for whom the system keeps little that it does not read."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    return caller


def deaf(sent: bytes, left: asyncio.Event) -> Callable[[int], Coroutine[Any, Any, None]]:
    """A caller who reads nothing until somebody else was answered."""

    async def caller(port: int) -> None:
        with narrow() as connected:
            connected.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", port))
            connected.send(sent)
            await left.wait()

    return caller


def patient(answered: asyncio.Event) -> Callable[[int], Coroutine[Any, Any, list[bytes]]]:
    """A caller who asks until it is answered, and tells the statuses that it saw, each once."""

    async def caller(port: int) -> list[bytes]:
        found: list[bytes] = []
        for _ in range(150):
            await asyncio.sleep(0.1)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET + b"Connection: close\r\n\r\n")
            status = (await reader.read())[9:12]
            writer.close()
            if status not in found:
                found.append(status)
            if status == b"200":
                break
        answered.set()
        return found

    return caller


@pytest.mark.slow
def test_who_does_not_take_its_answers_makes_room_for_others() -> None:
    last = GET + b"Connection: close\r\n\r\n"
    much, rest = b"x" * 90_000, b"x" * 50_000  # more than is kept for writing, and less
    for sent, body in ((GET + b"\r\n", much), ((GET + b"\r\n") * 50, much), (last, rest)):
        left = asyncio.Event()
        found = found_by(LONELY, deaf(sent, left), patient(left), body=body, kept=2048)
        assert found[1] == [b"200"]


def answered(port: int) -> int:
    """How many pages the server has begun to write."""
    found = re.search(r'_total{path="/",status="200"} (\d+)', metrics(port))
    return int(found[1]) if found else 0


@pytest.mark.slow
def test_callers_who_leave_their_answers_unread_leave_the_log_empty(
    finished_run: Run,
) -> None:
    port = free_port()
    callers = [narrow() for _ in range(4)]
    with hasty(finished_run, port) as server:
        for caller in callers:
            caller.connect(("127.0.0.1", port))
            caller.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
        before = -1
        while (now := answered(port)) != before:  # until it has written as much as it may
            before = now
            time.sleep(0.5)
        assert now < 4000
        for caller in callers[:3]:
            caller.close()
        assert answered(port) == now
        server.terminate()
        ended = *server.communicate(timeout=60), server.returncode
    callers[3].close()  # who was still there, and took nothing
    assert ended == ("", "stopped serving\n", 143)


def sizes(*pieces: bytes) -> list[bytes]:
    """How many bytes a server says that it was sent with each of the requests in pieces."""
    found = found_by(Limits(), slow(*pieces), body=None)[0]
    return re.findall(rb"\r\n\r\n(\d+?)(?=HTTP/1.1 200|$)", found)


def test_a_body_is_read_whatever_other_protocol_is_offered_with_it() -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nEmpty:\r\n" + offer
    plain, whole = b"Content-Length: 5000\r\n\r\n", b"a" * 5000
    pieces = b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    none = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: close, Upgrade\r\n\r\n"
    all_of_it = head + plain + whole + none + head + b"".join(pieces) + GET + b"\r\n" + none + last
    wanted = [b"5000", b"0", b"5", b"0", b"0", b"0"]
    for step in (len(all_of_it), 2000, 97):
        starts = range(0, len(all_of_it), step)
        assert sizes(*(all_of_it[start : start + step] for start in starts)) == wanted
    assert sizes(last.replace(b"/1.1", b"/1.0")) == [b"0"]
    assert sizes(none * 4000 + last) == [b"0"] * 4001
