"""Broken requests and odd ones: refused in one line each, and the server is as before."""

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from project import load
from project.records.receipt import Run
from tests.serving.broken import Broken, Vandal
from tests.serving.conftest import post, serving
from tests.serving.test_app import PICTURES, PNG, content

MANY = 500
FILES = [content(picture, kind) for picture in PICTURES[:4] for kind in ("PNG", "JPEG")]


def status_of(port: int, broken: Broken) -> int:
    """The status that a broken request gets; 0 if the server hangs up without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as caller:
        found = b""
        try:
            caller.sendall(broken.sent)
            if not broken.whole:
                caller.shutdown(socket.SHUT_WR)
            while b"\r\n" not in found and (part := caller.recv(4096)):
                found += part
        except (BrokenPipeError, ConnectionResetError):  # it was told enough
            pass
    return int(found.split()[1]) if found.startswith(b"HTTP/1.1 ") else 0


def fuzz(port: int, count: int, seed: int) -> Counter[tuple[str, int]]:
    """How often each kind of broken request got each status."""
    vandal = Vandal(FILES, seed)
    requests = [vandal.request() for _ in range(count)]
    with ThreadPoolExecutor(8) as callers:
        statuses = list(callers.map(lambda broken: status_of(port, broken), requests))
    return Counter(
        (request.kind, status) for request, status in zip(requests, statuses, strict=True)
    )


@pytest.fixture(scope="module", params=["digits/base", "tags/base"])
def port(request: pytest.FixtureRequest, brief_run: Callable[[str], Run]) -> Iterator[int]:
    with serving(brief_run(request.param)) as port:
        yield port


@pytest.mark.slow
def test_broken_requests_are_refused_and_leave_nothing_behind(
    port: int, brief_run: Callable[[str], Run]
) -> None:
    found = fuzz(port, MANY, seed=1)
    assert len({kind for kind, _ in found}) == len(Vandal([], 0).ways)
    assert {status for _, status in found} <= {0, 200, 400, 404, 405, 408, 413, 431, 503}
    assert {kind for kind, status in found if status == 0} <= {"head", "cut off", "headers"}
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert caller.makefile("rb").read().startswith(b"HTTP/1.1 200 OK")


@pytest.mark.slow
def test_after_broken_requests_the_answers_have_the_same_bits(finished_run: Run) -> None:
    with serving(finished_run) as port:
        before = post(port, FILES[0], PNG)
        fuzz(port, 60, seed=2)
        assert post(port, FILES[0], PNG) == before
        assert before[1].decode().startswith('[{"label":"')
        assert (
            load("digits", finished_run.folder).predict(FILES[:1])[0]["label"] in before[1].decode()
        )


@pytest.mark.slow
def test_what_the_description_allows_and_forbids_is_answered_as_it_says(
    port: int, tmp_path: Path
) -> None:
    checks = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
    checks += ("response_schema_conformance", "unsupported_method")
    words = [str(Path(sys.executable).with_name("schemathesis")), "run"]
    words += [f"http://127.0.0.1:{port}/openapi.json", f"--checks={','.join(checks)}"]
    words += ["--phases=examples,coverage,fuzzing", "--max-examples=30", "--max-time=50"]
    words += ["--generation-deterministic", "--generation-database=none", "--warnings=off"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, "POST /predict" in done.stdout or "4" in done.stdout) == (0, True), (
        done.stdout + done.stderr
    )
