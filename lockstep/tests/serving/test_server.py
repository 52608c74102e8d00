"""What is served and how: a bundle as well as a run, on the fast parts, for known callers alone."""

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from lockstep import loading
from lockstep.publishing import bundle
from lockstep.records.run import Run
from lockstep.serving.app import app
from lockstep.serving.limits import Limits
from lockstep.serving.server import answer
from lockstep.serving.stopping import Stop
from lockstep.tests.serving.callers import JSON, call, told
from lockstep.tests.serving.conftest import post, raw, serving
from lockstep.tests.serving.test_app import ask, free_port, start
from lockstep.tests.serving.test_load import bodies

pytestmark = pytest.mark.slow  # servers in processes of their own


HASTY = Limits(receiving=1, idle=1)
NARROW = Limits(head=1000, headers=1000, receiving=600)
LONELY = Limits(connections=1)


def detail(text: str) -> bytes:
    return json.dumps({"detail": text}).encode()


@pytest.mark.slow
def test_a_bundle_is_served_as_the_run_that_it_was_made_of(
    finished_run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "model.tar.gz"
    bundle.made(finished_run).write(path)
    asked, wanted = bodies(finished_run, "digits/base")
    with serving(finished_run, bundle=path) as port:
        path.unlink()
        said = ask(port, "GET", "/model")
        assert [post(port, *body) for body in asked] == [(200, answer) for answer in wanted]
    gate = app(loading.served(finished_run))
    assert said == (200, json.loads(asyncio.run(call(gate, "GET", "/model"))[2]))


def test_the_server_runs_on_uvloop_and_httptools_for_callers_who_know_its_name(
    finished_run: Run,
) -> None:
    port = free_port()
    server = start(str(finished_run.folder), "--host", "127.0.0.2", "--port", str(port))
    assert server.stdout
    server.stdout.readline()
    found = []
    for name in ("127.0.0.2", f"localhost:{port}", "evil.example", "127.0.0.3"):
        head = f"GET /model HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
        found.append(raw(port, head.encode(), "127.0.0.2")[0])
    mapped = Path(f"/proc/{server.pid}/maps").read_text()
    server.terminate()
    server.communicate(timeout=60)
    assert found == [200, 200, 421, 421]
    assert [name in mapped for name in ("uvloop/loop.", "httptools/parser/parser.")] == [True, True]


def test_a_caller_who_knows_the_server_by_another_name_is_not_answered(finished_run: Run) -> None:
    """Or the page of a stranger, whose name leads to this machine, could read the answers."""
    gate = app(loading.served(finished_run), hosts=("127.0.0.1", "localhost", "::1", "Named"))
    good = (
        "localhost",
        "LocalHost:9999",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]",
        "[::1]:1",
        "named",
    )
    bad = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "",
           "a@localhost", "127.0.0.2", "é")  # fmt: skip

    def statuses(*names: str) -> list[int]:
        asked = [(name, path) for name in names for path in ("/", "/healthz", "/model", "/ping")]
        return [asyncio.run(call(gate, "GET", path, Host=name))[0] for name, path in asked]

    assert statuses(*good) == [200] * 4 * len(good)
    assert statuses(*bad) == [421] * 4 * len(bad)
    for method, path in (("GET", "/model"), ("POST", "/predict"), ("POST", "/invocations")):
        assert asyncio.run(call(gate, method, path, b"[]", Content_Type=JSON))[0] == 421
    assert told(asyncio.run(call(gate, "POST", "/predict", b"[]", Host="evil.example"))) == (
        421,
        "host: found 'evil.example', expected one of 127.0.0.1, ::1, localhost, named.",
    )


def found_by(
    limits: Limits,
    *callers: Callable[[int], Coroutine[Any, Any, Any]],
    body: bytes | None = b"ok",
    kept: int = 0,
    after: list[asyncio.Event] | None = None,
) -> Any:
    """What callers find who call at once a server with these limits, at its port.

    Its answers have a ``body``, or how many bytes it was sent, of which the system keeps few if
    ``kept`` is few. The first ones are answered ``after`` these events.
    """

    async def application(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body")
        if after:
            await after.pop(0).wait()
        told = str(size).encode() if body is None else body
        found = [(b"content-length", str(len(told)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": found})
        await send({"type": "http.response.body", "body": told})

    async def all_of_them() -> Any:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            if kept:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kept)
            stop = Stop(limits.stopping)
            served = asyncio.create_task(answer(application, listener, stop, limits))
            port = listener.getsockname()[1]
            found = await asyncio.gather(*(caller(port) for caller in callers))
            stop.number = 15
            await served
        return found

    return uvloop.run(all_of_them())  # as the real one runs


def slow(*pieces: bytes) -> Callable[[int], Coroutine[Any, Any, bytes]]:
    """A caller who sends pieces, each a little later, and then waits for the server to hang up."""

    async def caller(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        found = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return found

    return caller


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST = GET + b"Connection: close\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


def test_a_head_that_does_not_end_is_not_waited_for() -> None:
    late = b"\r\n\r\n" + detail("head: found no end of it within 1 s, expected all of it.")
    found = found_by(
        HASTY, slow(), slow(b"GET"), slow(b"\r\n"), slow(GET), slow(GET + b"\r\n", GET)
    )
    assert [answer.startswith(b"HTTP/1.1 408 ") for answer in found] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert [found[0], found[2]] == [b"", b""]
    assert [found[1].endswith(late), found[3].endswith(late)] == [True, True]
    assert found[4].startswith(OK + b"HTTP/1.1 408 ") and found[4].endswith(late)


def test_a_head_that_is_too_large_is_refused_and_a_body_is_not_taken_for_one() -> None:
    wanted = b"\r\n\r\n" + detail("head: expected at most 1,000 bytes; send fewer.")
    many = [b"X%d: a\r\n" % number for number in range(200)]
    heads = [
        slow(GET + b"X: " + b"a" * 1000 + b"\r\n\r\n"),
        slow(GET, b"X: " + b"a" * 500, b"a" * 500, b"a" * 500),
        slow(GET + b"".join(many) + b"\r\n"),
        slow(GET, b"".join(many[:100]), b"".join(many[100:])),
        slow(b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        slow(b"GET /", b"a" * 500, b"a" * 501),
    ]
    found = found_by(NARROW, *heads)
    assert [answer.startswith(b"HTTP/1.1 431 ") for answer in found] == [True] * len(heads)
    assert [answer.endswith(wanted) for answer in found] == [True] * len(heads)
    body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + b"a" * 5000
    last = GET + b"Connection: close\r\n\r\n"
    closed = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    in_one, in_many = found_by(
        NARROW,
        slow(body * 2 + last),
        slow(body[:30], body[30:2000], body[2000:] + body[:9], body[9:], last),
    )
    assert (in_one, in_many) == (OK * 2 + closed,) * 2


def test_who_is_one_too_many_while_all_others_are_computed_is_told_when_to_come_again() -> None:
    refused = asyncio.Event()

    async def second(port: int) -> bytes:
        await asyncio.sleep(0.3)
        found: bytes = await slow(GET + b"\r\n")(port)
        refused.set()
        return found

    first, late = found_by(LONELY, slow(LAST), second, after=[refused])
    assert first == CLOSED
    head, _, body = late.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n") and b"retry-after: 1" in head
    assert body == detail("server: the queue is full; try again soon.")


def test_who_keeps_the_server_waiting_makes_room_for_others() -> None:
    """Liveness is answered, however many connections are idle, half a head or half a body."""
    limits = Limits(connections=20)
    begun = (
        b"",
        GET,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
        GET + b"\r\n",
    )

    async def silent(port: int) -> list[bytes]:
        callers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for number, (_, writer) in enumerate(callers):
            writer.write(begun[number % len(begun)])
        await asyncio.sleep(0.2)
        found: list[bytes] = [await slow(LAST)(port) for _ in range(30)]
        for _, writer in callers:
            writer.close()
        return found

    assert found_by(limits, silent) == [[CLOSED] * 30]


def test_what_is_no_http_is_reported_in_one_line() -> None:
    odd = (b"nonsense\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n")
    found = found_by(NARROW, *map(slow, odd))
    assert {answer.partition(b"\r\n\r\n")[2] for answer in found} == {
        detail("request: found no readable HTTP.")
    }
    assert [answer[:13] for answer in found] == [b"HTTP/1.1 400 "] * len(odd)


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def refusal(answer: bytes) -> tuple[bytes, str]:
    """Status and detail of the only answer that there is."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return head[9:12], json.loads(body)["detail"]


def test_what_two_servers_in_a_row_could_read_differently_is_refused() -> None:
    chunks = b"1\r\na\r\n0\r\n\r\n"
    heads = (
        GET + b"Host: b\r\n\r\n",
        GET + b"host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        POST.replace(b"/1.1", b"/1.0") + CHUNKED + chunks,
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks,
        POST + b"Transfer-Encoding: chunked\r\n" + CHUNKED + chunks,
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        POST + b"Content-Length: 1\r\n" + CHUNKED + chunks,
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na",
        POST + b"Content-Length: +1\r\n\r\na",
        GET + b"X : a\r\n\r\n",
        GET + b"X: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    found = found_by(Limits(receiving=2), *map(slow, heads))
    assert [refusal(answer)[0] for answer in found] == [b"400"] * len(heads)
    assert refusal(found[0])[1] == "host: found 2 of them, expected one."
    assert found_by(Limits(), slow(b"GET / HTTP/1.0\r\n\r\n")) == [CLOSED]


def test_trailers_and_extensions_of_chunks_are_limited_and_not_used() -> None:
    head, end = POST + CHUNKED + b"1\r\na\r\n0\r\n", b"\r\n" + LAST
    many = [b"X: %d\r\n" % number * 50 for number in range(60)]
    wanted = b"431", "trailers: expected at most 1,000 bytes; send fewer."
    found = found_by(
        NARROW,
        slow(head, *many),
        slow(head, b"X: ", *[b"a" * 500] * 9),
        slow(POST + CHUNKED + b"1;", *[b"a" * 500] * 9),
        slow(head + b"Host: b\r\nX: 9\r\n" + end),
        body=None,
    )
    assert [refusal(answer) for answer in found[:3]] == [wanted] * 3
    assert found[3].startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1HTTP/1.1 200 ")


def test_more_headers_than_the_limit_are_refused() -> None:
    limits = Limits(headers=10)
    many, few = (GET + b"a:b\r\n" * count + b"Connection: close\r\n\r\n" for count in (9, 8))
    found = found_by(limits, slow(many), slow(few), slow(GET + b"a:b\r\n" * 20))
    wanted = b"431", "head: expected at most 10 headers; send fewer."
    assert (refusal(found[0]), found[1], refusal(found[2])) == (wanted, CLOSED, wanted)


def test_requests_that_came_before_one_that_is_refused_are_answered_first() -> None:
    found = found_by(Limits(), slow(GET + b"\r\n" + GET + b"\r\nno HTTP\r\n\r\n"))[0]
    assert found.startswith(OK * 2 + b"HTTP/1.1 400 ")


def test_who_has_sent_all_and_closed_its_half_is_answered() -> None:
    async def caller(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write((GET + b"\r\n") * 3)
        writer.write_eof()
        found = await reader.read()
        writer.close()
        return found

    assert found_by(Limits(), caller) == [OK * 2 + CLOSED]
