"""Broken requests and odd ones: refused in one line each, and the server is as before."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lockstep.examples import load
from lockstep.records.run import Run
from lockstep.tests.serving.broken import Vandal, fuzz
from lockstep.tests.serving.conftest import metrics, post, raw, serving
from lockstep.tests.serving.test_app import PICTURES, PNG, content

MANY = 500
FILES = [content(picture, kind) for picture in PICTURES[:4] for kind in ("PNG", "JPEG")]


@pytest.fixture(scope="module", params=["digits/base", "tags/base"])
def port(request: pytest.FixtureRequest, brief_run: Callable[[str], Run]) -> Iterator[int]:
    with serving(brief_run(request.param)) as port:
        yield port


@pytest.mark.slow
def test_broken_requests_are_refused_and_leave_nothing_behind(
    port: int, brief_run: Callable[[str], Run]
) -> None:
    found = fuzz(port, MANY, FILES, seed=1)
    assert len({kind for kind, _ in found}) == len(Vandal([], 0).ways)
    assert {status for _, status in found} <= {0, 200, 400, 404, 405, 408, 413, 431, 503}
    assert {kind for kind, status in found if status == 0} <= {"head", "cut off", "headers"}
    ready = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert raw(port, ready) == (200, b'{"status":"ready"}')


@pytest.mark.slow
def test_after_broken_requests_the_answers_have_the_same_bits(finished_run: Run) -> None:
    with serving(finished_run) as port:
        before = post(port, FILES[0], PNG)
        fuzz(port, 60, FILES, seed=2)
        assert post(port, FILES[0], PNG) == before
        assert before[1].decode().startswith('[{"label":"')
        assert (
            load("digits", finished_run.folder).predict(FILES[:1])[0]["label"] in before[1].decode()
        )


def answered(port: int) -> Counter[int]:
    """How often the server, as it says itself, gave each status at /predict."""
    pattern = r'^lockstep_requests_total{path="/predict",status="(\d+)"} (\d+)'
    return Counter(
        {int(status): int(times) for status, times in re.findall(pattern, metrics(port), re.M)}
    )


@pytest.mark.slow
def test_what_the_description_allows_and_forbids_is_answered_as_it_says(
    port: int, tmp_path: Path
) -> None:
    checks = ["not_a_server_error", "status_code_conformance", "content_type_conformance"]
    checks += ("response_schema_conformance", "unsupported_method", "negative_data_rejection")
    words = [str(Path(sys.executable).with_name("schemathesis")), "run"]
    words += [f"http://127.0.0.1:{port}/openapi.json", f"--checks={','.join(checks)}"]
    words += ["--phases=examples,coverage,fuzzing", "--max-examples=25"]
    words += ["--generation-deterministic", "--warnings=off", "--no-color"]
    before = answered(port)
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = answered(port) - before
    assert [found[status] > 0 for status in (200, 400, 405)] == [True] * 3
    assert found.total() > 30
