"""Runs that are served, and servers of them."""

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import Run
from lockstep.run.story import run_experiment
from lockstep.tests.answers.conftest import kinds  # noqa: F401
from lockstep.tests.conftest import experiment
from lockstep.tests.serving.test_app import free_port, start


@contextmanager
def serving(run: Run, *words: str, bundle: Path | None = None, **variables: str) -> Iterator[int]:
    """The port of a server of a run, or its bundle, which must not have failed in the end."""
    port = free_port()
    server = start(str(bundle or run.folder), "--port", str(port), *words, **variables)
    assert server.stdout
    try:
        assert server.stdout.readline().startswith(f"serving {run.name} at http://")
        yield port
    finally:
        server.terminate()
        _, told = server.communicate(timeout=60)
    assert (server.returncode, "Traceback" in told) == (143, False)


@pytest.fixture(scope="session")
def brief_run(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Callable[[str], Run]:
    """A brief run of a recipe, trained once."""
    made: dict[str, Run] = {}

    def run(recipe: str) -> Run:
        if recipe not in made:
            place = Place(tmp_path_factory.mktemp("served"), data_folder)
            found = run_experiment(experiment(recipe), place, Watch())
            assert found
            made[recipe] = found
        return made[recipe]

    return run


def post(port: int, body: bytes, kind: str) -> tuple[int, bytes]:
    """Status and bytes of an answer."""
    caller = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    caller.request("POST", "/predict", body, {"Content-Type": kind})
    answer = caller.getresponse()
    found = answer.status, answer.read()
    caller.close()
    return found


def raw(port: int, sent: bytes, host: str = "127.0.0.1") -> tuple[int, bytes]:
    """Status and body of the answer to bytes, after which the server hangs up."""
    with socket.create_connection((host, port), timeout=60) as caller:
        caller.sendall(sent)
        head, _, body = caller.makefile("rb").read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def metrics(port: int) -> str:
    """The numbers that a server gives to Prometheus."""
    head = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return raw(port, head)[1].decode()


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
