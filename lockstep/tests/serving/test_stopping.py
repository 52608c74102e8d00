"""The end of serving: who was not answered is told, nothing is in the log, the process ends."""

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lockstep.records.run import Run
from lockstep.serving.batching import Batching
from lockstep.serving.limits import Limits
from lockstep.tests.conftest import ROOT, plain_environment
from lockstep.tests.serving.conftest import is_open, metrics
from lockstep.tests.serving.test_app import PICTURES, PNG, content, free_port, start

pytestmark = pytest.mark.slow  # servers in processes of their own

# ``python -m lockstep serve`` with a predictor whose method, if one is named, never comes back, and
# a second for what is under way.
SCRIPT = """
import sys, time
from lockstep import loading
from lockstep.cli import entry
from lockstep.serving import server
from lockstep.serving.limits import Limits

method, opened = sys.argv.pop(1), loading.served

def served(*given, **more):
    found = opened(*given, **more)
    if method:
        found.predictor.golden = None  # an example is computed before anybody can ask
        setattr(found.predictor, method, stuck)
    return found

def stuck(_):
    print("stuck", flush=True)
    time.sleep(600)

serve = server.serve
server.serve = lambda *given, **more: serve(*given, limits=Limits(stopping=1), **more)
Limits.stopping = 1
loading.served = served
entry()
"""
STOPS = json.dumps({"detail": "server: stopping, no time to answer; try again soon."}).encode()


@contextmanager
def hasty(run: Run, port: int, method: str = "") -> "Iterator[subprocess.Popen[str]]":
    """A server that has told its address."""
    words = [sys.executable, "-c", SCRIPT, method, "serve", str(run.folder), "--port", str(port)]
    pipe, environment = subprocess.PIPE, plain_environment()
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as server:
        try:
            assert server.stdout and server.stdout.readline().startswith("serving ")
            yield server
        finally:
            server.kill()  # if it still runs


def asking(port: int, body: bytes, sent: int | None = None) -> socket.socket:
    """A caller that has sent a picture, or the first bytes of one."""
    caller = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PNG}\r\n"
    caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:sent])
    return caller


def answer(caller: socket.socket) -> tuple[bytes, bytes]:
    """Status line and body of what a caller is told until the server hangs up."""
    with caller, caller.makefile("rb") as file:
        head, _, body = file.read().partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body


def test_who_has_not_sent_all_when_the_server_stops_is_told_to_come_again(
    finished_run: Run,
) -> None:
    port = free_port()
    with hasty(finished_run, port) as server:
        caller = asking(port, content(PICTURES[0]), 20)
        while "lockstep_requests_under_way 1.0\n" not in metrics(port):
            time.sleep(0.05)
        server.send_signal(signal.SIGTERM)
        assert answer(caller) == (b"HTTP/1.1 503 Service Unavailable", STOPS)
        ended = *server.communicate(timeout=60), server.returncode
    assert ended == ("", "stopped serving\n", 143)


def test_a_signal_while_the_model_loads_is_never_lost(finished_run: Run) -> None:
    for wait in (0.0, 0.7, 1.4):
        port = free_port()
        server = start(str(finished_run.folder), "--port", str(port))
        while not is_open(port):
            time.sleep(0.01)
        time.sleep(wait)
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=60)
        assert ("Traceback" in err, server.returncode) == (False, 143)


def test_no_request_that_was_accepted_is_lost_when_the_server_stops(finished_run: Run) -> None:
    port = free_port()
    server = start(str(finished_run.folder), "--port", str(port))
    assert server.stdout
    server.stdout.readline()
    answers: list[int] = []
    lost: list[str] = []

    def calls(*, keeps: bool) -> None:
        while True:
            caller = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                caller.connect()
            except ConnectionRefusedError:
                return
            while caller.sock:  # until the answer says that it was the last one
                try:
                    head = {} if keeps else {"Connection": "close"}
                    caller.request("GET", "/healthz", headers=head)
                    answer = caller.getresponse()
                    answer.read()
                    answers.append(answer.status)
                except (OSError, http.client.HTTPException) as error:
                    lost.append(repr(error))
                    caller.close()

    threads = [threading.Thread(target=calls, kwargs={"keeps": n % 2 == 0}) for n in range(24)]
    for thread in threads:
        thread.start()
    while len(answers) < 200:
        time.sleep(0.01)
    server.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    server.communicate(timeout=60)
    assert (lost, {*answers}, server.returncode) == ([], {200}, 143)


LARGE = PICTURES[0].resize((1200, 1200))  # which is read by a thread of its own
SMALL = PICTURES[0]


@pytest.mark.parametrize(
    ("method", "picture", "told"),
    [("read", LARGE, True), ("answers", SMALL, True), ("read", SMALL, False)],
    ids=["a reader", "the model", "the loop"],
)
def test_the_process_ends_though_a_thread_of_it_never_does(
    finished_run: Run, method: str, picture: object, told: bool
) -> None:
    port = free_port()
    found = (b"HTTP/1.1 503 Service Unavailable", STOPS) if told else (b"", b"")
    with hasty(finished_run, port, method) as server:
        caller = asking(port, content(picture))
        assert server.stdout and server.stdout.readline() == "stuck\n"
        server.send_signal(signal.SIGTERM)
        assert answer(caller) == found
        ended = *server.communicate(timeout=60), server.returncode
    assert ended == ("", "stopped serving\n" if told else "", 143)


def test_what_is_computed_after_the_end_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    began, goes_on, done = threading.Event(), threading.Event(), threading.Event()

    def answers(rows: object) -> Any:
        began.set()
        goes_on.wait()
        return [{}]

    batching = Batching(answers, Limits(), lambda _: None)

    async def left() -> None:
        asked = asyncio.create_task(batching.ask([0]))  # type: ignore[list-item]
        await asyncio.to_thread(began.wait)
        asked.cancel()

    asyncio.run(left())
    batching._computing.submit(done.set)
    goes_on.set()
    assert (done.wait(60), caplog.text) == (True, "")
