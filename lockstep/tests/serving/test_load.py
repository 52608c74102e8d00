"""A server under load, of each kind of model: the same bytes, and an end that leaves none out."""

import json
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lockstep.answers import golden
from lockstep.answers.inputs import Text
from lockstep.examples import load
from lockstep.records.run import Run
from lockstep.tests.serving.conftest import is_open, metrics, post, raw, serving
from lockstep.tests.serving.test_app import JSON, PNG, content, free_port, start

RECIPES = ("digits/base", "apparel/base", "tags/base")
TEXT = "text/plain; charset=utf-8"
Bodies = list[tuple[bytes, str]]


def bodies(run: Run, recipe: str) -> tuple[Bodies, list[bytes]]:
    """Requests of all kinds for a model, and what its Predictor says to each."""
    predictor = load(recipe.partition("/")[0], run.folder)
    assert predictor.golden
    shown: list[Any] = [predictor.preprocess.show(row) for row in golden.examples(predictor.golden)]
    text = isinstance(predictor.takes, Text)
    one: Bodies = [(shown.encode(), TEXT) if text else (content(shown), PNG) for shown in shown]
    lists = shown if text else [golden.as_lists(picture) for picture in shown]
    many = [(json.dumps(lists[:count]).encode(), JSON) for count in (1, 3, 8)]
    many.append((json.dumps(lists * 9).encode(), JSON))
    wanted = [[shown] for shown in shown] + [shown[:count] for count in (1, 3, 8)] + [shown * 9]
    return one + many, [_as_json(predictor.predict(inputs)) for inputs in wanted]


def _as_json(answers: object) -> bytes:
    return json.dumps(answers, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_input_has_the_same_bytes_alone_and_under_load(
    brief_run: Callable[[str], Run], recipe: str
) -> None:
    run = brief_run(recipe)
    asked, wanted = bodies(run, recipe)
    with serving(run) as port:
        alone = [post(port, *body) for body in asked]
        assert alone == [(200, answer) for answer in wanted]
        order = [(number * 7) % len(asked) for number in range(400)]
        with ThreadPoolExecutor(24) as callers:
            loaded = list(callers.map(lambda number: post(port, *asked[number]), order))
        assert [number for number, found in zip(order, loaded, strict=True)
                if found != alone[number]] == []  # fmt: skip


def test_a_signal_to_stop_lets_what_is_under_way_be_answered(finished_run: Run) -> None:
    port = free_port()
    server = start(str(finished_run.folder), "--port", str(port))
    assert server.stdout
    server.stdout.readline()
    asked, wanted = bodies(finished_run, "digits/base")
    (body, kind), answer = asked[-1], wanted[-1]
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
    for caller in callers:
        caller.sendall(request[:-1])
    while "lockstep_requests_under_way 6.0\n" not in metrics(port):
        time.sleep(0.05)
    server.send_signal(signal.SIGTERM)
    while is_open(port):
        time.sleep(0.05)
    for caller in callers:
        caller.sendall(request[-1:])
    for caller in callers:
        caller.settimeout(60)
        with caller, caller.makefile("rb") as file:
            found = file.read()
        assert found.startswith(b"HTTP/1.1 200 OK\r\n")
        assert found.endswith(b"\r\n\r\n" + answer)
    server.communicate(timeout=60)
    assert server.returncode == 143


def test_what_can_be_no_name_of_a_host_is_reported_in_one_line(finished_run: Run) -> None:
    hosts = "a..b", "a" * 64
    servers = [start(str(finished_run.folder), "--host", host) for host in hosts]
    for host, server in zip(hosts, servers, strict=True):
        assert (*server.communicate(timeout=60), server.returncode) == (
            "",
            f"error: {host}:8000: cannot listen there (no name of a host), expected an address of "
            "this machine and a free port; stop what listens there, or name another with "
            "--port N.\n",
            2,
        )


@pytest.mark.slow
def test_others_than_this_machine_come_in_with_a_token_or_not_at_all(finished_run: Run) -> None:
    server = start(str(finished_run.folder), "--host", "0.0.0.0", "--port", str(free_port()))
    assert (*server.communicate(timeout=60), server.returncode) == (
        "",
        "error: 0.0.0.0: found no token, expected one where others than this machine come in; set "
        "LOCKSTEP_TOKEN, or listen at 127.0.0.1.\n",
        2,
    )
    with serving(finished_run, "--host", "0.0.0.0", LOCKSTEP_TOKEN="sesame") as port:
        assert post(port, b"", PNG)[0] == 401
        head = b"GET /model HTTP/1.1\r\nHost: a.proxy\r\nConnection: close\r\n"
        assert raw(port, head + b"Authorization: Bearer sesame\r\n\r\n")[0] == 200
