"""A run served over HTTP by a real server: the answers, mistakes in one line, a clean end."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lockstep.examples import load
from lockstep.examples.models.digits import Preprocess
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, plain_environment

PICTURES = [Preprocess.show(pixels) for pixels in load_digits().images[:20]]
JSON = "application/json"
PNG = "image/png"
FORM = "multipart/form-data"


def start(*words: str, **variables: str) -> "subprocess.Popen[str]":
    """``python -m lockstep serve ...`` from a shell that knows nothing of profiles."""
    return subprocess.Popen(
        [sys.executable, "-m", "lockstep", "serve", *words],
        cwd=ROOT,
        env=plain_environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def ask(port: int, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, Any]:
    """Status and JSON of an answer."""
    caller = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    caller.request(method, path, body, {"Content-Type": kind} if kind else {})
    answer = caller.getresponse()
    found = answer.status, json.loads(answer.read())
    caller.close()
    return found


def content(picture: Any, kind: str = "PNG") -> bytes:
    """A picture as the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def port(finished_run: Run) -> Iterator[int]:
    """Where the finished run is served; in the end the server has said nothing but its address."""
    port = free_port()
    server = start(str(finished_run.folder), "--port", str(port))
    assert server.stdout
    assert server.stdout.readline() == f"serving {finished_run.name} at http://127.0.0.1:{port}\n"
    yield port
    server.terminate()
    ended = "", "stopped serving\n", 143
    assert (*server.communicate(timeout=60), server.returncode) == ended


def test_it_is_well_and_says_which_run_it_serves(port: int, finished_run: Run) -> None:
    assert finished_run.receipt
    assert ask(port, "GET", "/healthz") == (200, {"status": "ok"})
    assert ask(port, "GET", "/model") == (
        200,
        {
            "run": finished_run.name,
            "identity": finished_run.receipt["identity"]["digest"],
            "weights_sha256": finished_run.receipt["results"]["weights_sha256"],
            "finished": finished_run.receipt["timing"]["finished"],
            "promise": finished_run.receipt["level"]["promise"],
            "metric": "accuracy",
            "test": {
                name: finished_run.receipt["results"]["metrics"]["test"][name]
                for name in ("accuracy", "f1", "loss")
            },
            "golden": "equal",
            "runtime": f"torch {finished_run.receipt['environment']['torch']}",
            "takes": {"kind": "picture", "height": 8, "width": 8, "colour": False},
            "gives": "label",
            "labels": [str(digit) for digit in range(10)],
        },
    )
    assert ask(port, "GET", "/readyz") == (200, {"status": "ready"})


def test_answers_have_every_bit_of_the_predictors(port: int, finished_run: Run) -> None:
    predictor = load("digits", finished_run.folder)
    for picture in PICTURES:
        found = ask(port, "POST", "/predict", content(picture), PNG)
        assert found == (200, predictor.predict([picture]))
    arrays = [np.asarray(picture).tolist() for picture in PICTURES]
    body = json.dumps(arrays).encode()
    assert ask(port, "POST", "/predict", body, JSON) == (200, predictor.predict(PICTURES))
    assert ask(port, "POST", "/predict", b"[]", JSON) == (200, [])
    one = json.dumps(arrays[0]).encode()
    assert ask(port, "POST", "/predict", one, JSON) == (200, predictor.predict(PICTURES[:1]))


@pytest.mark.slow
def test_a_body_is_a_picture_unless_it_is_called_json(port: int, finished_run: Run) -> None:
    wanted = 200, load("digits", finished_run.folder).predict(PICTURES[:1])
    body = content(PICTURES[0])
    kinds = ("", PNG, "application/octet-stream", "application/x-www-form-urlencoded")
    assert [ask(port, "POST", "/predict", body, kind) for kind in kinds] == [wanted] * len(kinds)
    array = json.dumps([np.asarray(PICTURES[0]).tolist()]).encode()
    assert ask(port, "POST", "/predict", array, f"{JSON}; charset=utf-8") == wanted


def test_a_form_with_files_is_answered_in_their_order(port: int, finished_run: Run) -> None:
    parts = [
        b"--x\r\nContent-Disposition: form-data; name=file; filename=a.png\r\n"
        b"Content-Type: image/png\r\n\r\n" + content(picture, kind) + b"\r\n"
        for picture, kind in zip(PICTURES[:3], ("PNG", "JPEG", "PNG"), strict=True)
    ]
    found = ask(port, "POST", "/predict", b"".join(parts) + b"--x--\r\n", f"{FORM}; boundary=x")
    wanted = [
        content(picture, kind)
        for picture, kind in zip(PICTURES[:3], ("PNG", "JPEG", "PNG"), strict=True)
    ]
    assert found == (200, load("digits", finished_run.folder).predict(wanted))


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b"", PNG, "picture: no readable picture (no such format); give a PNG or JPEG."),
        (b"GIF89a", PNG, "picture: no readable picture (no such format); give a PNG or JPEG."),
        (content(PICTURES[0])[:90], PNG, "picture: no readable picture ("),
        (content(PICTURES[0]), JSON, "body: not readable as JSON ("),
        (b"[[[0, 1]", JSON, "body: not readable as JSON ("),
        (b"[" * 100_000, JSON, "body: not readable as JSON ("),
        (
            b"7",
            JSON,
            "body: found other JSON, expected a picture or a list of pictures, each an arr",
        ),
        (json.dumps([__file__]).encode(), JSON, "body: found other JSON, expected a picture or a "),
        (
            b"[[1, 2], 3]",
            JSON,
            "body: found other JSON, expected a picture or a list of pictures, ",
        ),
        (b"[[]]", JSON, "picture: found an array of shape (0,), expected (height, width)"),
        (
            b"[[[[[1]]]]]",
            JSON,
            "body: found other JSON, expected a picture or a list of pictures, ",
        ),
        (b"[[[true]]]", JSON, "body: found other JSON, expected a picture or a list of pictures, "),
        (b"[[[1, 2], [3]]]", JSON, "picture: found no array of numbers ("),
        (b"[[[256]]]", JSON, "picture: found whole numbers outside 0 to 255; scale them."),
        (b"[[[NaN]]]", JSON, "picture: found floats outside 0 to 1; scale them, or give 0 to 255."),
        (
            b'[[["a"]]]',
            JSON,
            "body: found other JSON, expected a picture or a list of pictures, each",
        ),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(
    port: int, body: bytes, kind: str, told: str
) -> None:
    status, answer = ask(port, "POST", "/predict", body, kind)
    assert (status, list(answer), answer["detail"].count("\n")) == (400, ["detail"], 0)
    assert answer["detail"].startswith(told)


def test_a_caller_who_goes_away_is_not_minded(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"
        )
    assert ask(port, "GET", "/healthz") == (200, {"status": "ok"})


def test_a_port_that_is_taken_is_reported_in_one_line(port: int, finished_run: Run) -> None:
    server = start(str(finished_run.folder), "--port", str(port))
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (
        2,
        "",
        f"error: 127.0.0.1:{port}: cannot listen there (Address already in use), expected an "
        "address of this machine and a free port; stop what listens there, or name another with "
        "--port N.\n",
    )


def test_a_run_that_is_not_finished_or_was_altered_is_not_served(
    finished_run: Run, tmp_path: Path
) -> None:
    for name in ("identity.json", "parts.json", "experiment.yaml"):
        os.link(finished_run.folder / name, tmp_path / name)
    server = start(str(tmp_path), "--port", str(free_port()))
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {tmp_path}: is stopped at step 0, expected a finished run")


@pytest.mark.slow
def test_without_a_name_it_serves_the_only_run_that_there_is(finished_run: Run) -> None:
    port = free_port()
    server = start("--runs", str(finished_run.folder.parent), "--port", str(port))
    assert server.stdout
    assert server.stdout.readline() == f"serving {finished_run.name} at http://127.0.0.1:{port}\n"
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=60)
    assert server.returncode == 130
