"""The page at ``/docs``: every request on it is answered, and it loads nothing."""

import asyncio
import html
import json
import re
import shlex

import pytest

from lockstep.answers.inputs import Numbers, Picture, Takes, Tensor, Text
from lockstep.loading import served
from lockstep.records.run import Run
from lockstep.serving.app import app
from lockstep.serving.guide import guide
from lockstep.tests.records.test_report import Loaded
from lockstep.tests.serving.callers import call
from lockstep.tests.serving.test_app import PICTURES, content


def commands(page: str) -> list[list[str]]:
    found = re.findall(r"<pre>(curl .*?)</pre>", page, re.DOTALL)
    return [shlex.split(html.unescape(one)) for one in found]


def test_each_request_of_the_docs_page_is_answered(finished_run: Run) -> None:
    async def asked() -> dict[str, int]:
        gate = app(served(finished_run))
        status, headers, page = await call(gate, "GET", "/docs")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert 'takes: {"kind": "picture", "height": 8, "width": 8' in Loaded(page).text
        statuses = {}
        for words in commands(page.decode()):
            path, body, kind = words[-1].removeprefix("$SERVER"), b"", ""
            if "--data-binary" in words:
                body, kind = content(PICTURES[0]), words[words.index("-H") + 1].split(": ")[1]
            method = "POST" if body else "GET"
            statuses[path] = (await call(gate, method, path, body, content_type=kind))[0]
        described = json.loads((await call(gate, "GET", "/openapi.json"))[2])["paths"]
        assert statuses.keys() == {*described, "/openapi.json"}
        return statuses

    assert set(asyncio.run(asked()).values()) == {200}


def test_the_docs_page_loads_nothing_and_needs_the_token(finished_run: Run) -> None:
    gate = app(served(finished_run), "sesame")
    assert asyncio.run(call(gate, "GET", "/docs"))[0] == 401
    page = asyncio.run(call(gate, "GET", "/docs", authorization="Bearer sesame"))[2]
    loaded = Loaded(page)
    assert (loaded.addresses, loaded.tags & {"script", "link", "img", "iframe"}) == ([], set())
    assert set(re.findall(r"https?://[^<]*", page.decode())) == {"http://127.0.0.1:8000"}
    sending = {
        words[-1].removeprefix("$SERVER"): "Authorization: Bearer $LOCKSTEP_TOKEN" in words
        for words in commands(page.decode())
    }
    assert {path for path, sent in sending.items() if not sent} == {"/healthz", "/readyz"}


@pytest.mark.parametrize(
    ("takes", "example", "expected"),
    [
        (Picture(8, 8), [[0]], ["@picture.png", "image/png"]),
        (Tensor((2,), "float32"), [0.5, 1.0], ["@inputs.npy", "application/x-npy"]),
        (Text(99), "<b>", ["a text", "text/plain; charset=utf-8"]),
        (Numbers(("it's <b>",)), {"it's <b>": 1.5}, ['[{"it\'s <b>": 1.5}]', "application/json"]),
        (Numbers(("rooms",)), None, ['[{"rooms": 0.0}]', "application/json"]),
        (Numbers(), None, ["@inputs.csv", "text/csv"]),
    ],
)
def test_the_request_is_of_the_kind_that_the_model_takes(
    takes: Takes, example: object, expected: list[str]
) -> None:
    words = commands(guide("<i>run</i>", takes, example, False).decode())[0]
    kind = words[words.index("-H") + 1].removeprefix("Content-Type: ")
    assert [words[words.index("-H") - 1], kind] == expected
    assert b"<i>" not in guide("<i>run</i>", takes, example, False)
