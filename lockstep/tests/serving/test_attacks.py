"""All attacks at once on one server: it stays small and alive, and its answers are equal."""

import contextlib
import http.client
import io
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lockstep.records.run import Run
from lockstep.tests.serving.broken import Vandal, status_of
from lockstep.tests.serving.conftest import post
from lockstep.tests.serving.test_app import PICTURES, PNG, content, free_port, start

POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SECONDS = 10
MEMORY = 420 << 10  # KiB, of which torch and the model take 272 MiB before anybody asks


def large() -> bytes:
    """A picture of as many pixels as are taken, in few bytes."""
    file = io.BytesIO()
    Image.new("RGB", (4096, 4096)).save(file, "PNG")
    return file.getvalue()


def trailers(caller: socket.socket) -> None:
    caller.sendall(CHUNKED + b"1\r\na\r\n0\r\n")
    while True:
        caller.sendall(b"X: " + b"a" * 60_000 + b"\r\n")


def one_trailer(caller: socket.socket) -> None:
    caller.sendall(CHUNKED + b"0\r\nX: ")
    while True:
        caller.sendall(b"a" * 1000)


def extension(caller: socket.socket) -> None:
    caller.sendall(CHUNKED + b"1;")
    while True:
        caller.sendall(b"a" * 60_000)


def small_chunks(caller: socket.socket) -> None:
    caller.sendall(CHUNKED)
    for _ in range(1000):
        caller.sendall(b"1\r\na\r\n" * 10)
        time.sleep(0.001)


def headers(caller: socket.socket) -> None:
    caller.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    while True:
        caller.sendall(b"a:b\r\n" * 1000)


def pipelined(caller: socket.socket) -> None:
    """Who asks for pages and takes none."""
    for _ in range(100):
        caller.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)


def announced(caller: socket.socket) -> None:
    caller.sendall(POST + b"Content-Length: 8000000\r\n\r\n" + b"a" * 10_000)
    time.sleep(3)


def nearly(caller: socket.socket) -> None:
    """Almost all of a large body."""
    caller.sendall(POST + b"Content-Length: 8000000\r\n\r\n" + b"a" * 7_999_999)
    time.sleep(3)


def idle(_: socket.socket) -> None:
    time.sleep(3)


def picture(caller: socket.socket, body: bytes = large()) -> None:
    caller.sendall(POST + b"Content-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(body))
    caller.sendall(body)
    caller.recv(1000)


ATTACKS: dict[Callable[[socket.socket], None], int] = {
    trailers: 4, one_trailer: 2, extension: 2, small_chunks: 4, headers: 4, pipelined: 4,
    announced: 40, nearly: 12, picture: 2, idle: 20,
}  # fmt: skip


def attack(port: int, seconds: float) -> tuple[list[float], list[tuple[int, bytes]]]:
    """How long liveness took each time, and the answers to one picture, under all attacks."""
    end = time.monotonic() + seconds
    kept: list[socket.socket] = []

    def again(one: Callable[[socket.socket], None]) -> None:
        while time.monotonic() < end:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=5) as caller,
            ):
                one(caller)

    def crowd() -> None:
        """More connections than the server has room for, of which nothing comes."""
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                kept.append(socket.create_connection(("127.0.0.1", port), timeout=5))
            if len(kept) > 1000:
                kept.pop(0).close()
            time.sleep(0.002)

    def vandalise() -> None:
        vandal = Vandal([content(PICTURES[0])], seed=int(end))
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                status_of(port, vandal.request())

    threads = [
        threading.Thread(target=again, args=(one,), daemon=True)
        for one, count in ATTACKS.items()
        for _ in range(count)
    ]
    threads += [threading.Thread(target=each, daemon=True) for each in (crowd, vandalise)]
    random.Random(0).shuffle(threads)
    for thread in threads:
        thread.start()
    lives, answers = [], []
    while time.monotonic() < end:
        began = time.monotonic()
        caller = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        caller.request("GET", "/healthz")
        assert caller.getresponse().status == 200
        caller.close()
        lives.append(time.monotonic() - began)
        answers.append(post(port, content(PICTURES[0]), PNG))
        time.sleep(0.1)
    for thread in threads:
        thread.join(10)
    for one in kept:
        one.close()
    return lives, answers


def peak(pid: int) -> int:
    """What a process had in memory at most, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


@pytest.mark.slow
def test_under_all_attacks_the_server_stays_small_and_its_answers_equal(finished_run: Run) -> None:
    port = free_port()
    server = start(str(finished_run.folder), "--port", str(port))
    assert server.stdout
    server.stdout.readline()
    wanted = post(port, content(PICTURES[0]), PNG)
    _, answers = attack(port, SECONDS)
    assert wanted[0] == 200
    assert {answer for answer in answers if answer[0] != 503} == {wanted}
    assert peak(server.pid) < MEMORY
    server.terminate()
    assert (*server.communicate(timeout=60), server.returncode) == ("", "stopped serving\n", 143)
