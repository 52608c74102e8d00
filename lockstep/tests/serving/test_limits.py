"""What one caller may ask, who may ask at all, and what the others notice of it."""

import asyncio
import json
import struct
import threading
import zlib
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from lockstep import loading
from lockstep.examples.models.digits import Preprocess
from lockstep.ground.pictures import MOST_PIXELS
from lockstep.records.run import Run
from lockstep.serving.app import app
from lockstep.serving.gate import Gate
from lockstep.serving.limits import Limits
from lockstep.tests.serving.callers import JSON, PNG, Answer, call, told
from lockstep.tests.serving.test_app import PICTURES, content

pytestmark = pytest.mark.slow  # servers in processes of their own

FILES = [content(picture) for picture in PICTURES]


@pytest.fixture(scope="module")
def served(finished_run: Run) -> loading.Served:
    return loading.served(finished_run)


def post(served: loading.Served, *body: bytes, limits: Limits | None = None, **more: Any) -> Answer:
    """The answer to one picture or other body, sent in the pieces given."""
    more = {"Content_Type": PNG} | more
    return asyncio.run(call(app(served, None, limits), "POST", "/predict", *body, **more))


def png(width: int, height: int) -> bytes:
    """A PNG of any size in a few bytes: it says its size, and holds nothing but zeros."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width)) for _ in range(height)) + packer.flush()
    found = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    for name, part in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")):
        checked = struct.pack(">I", zlib.crc32(name + part))
        found += struct.pack(">I", len(part)) + name + part + checked
    return found


def test_a_body_over_the_limit_is_refused_before_it_is_read_or_as_soon_as_it_is_over(
    served: loading.Served,
) -> None:
    limits = Limits(body=1000)
    wanted = 413, "body: expected at most 1,000 bytes; send a smaller one."
    said = post(served, b"", limits=limits, pause=60, Content_Length="1001")
    silent = post(served, *[b"a" * 500] * 3, limits=limits)
    assert [told(said), told(silent)] == [wanted, wanted]
    assert said[1]["connection"] == silent[1]["connection"] == "close"
    assert post(served, FILES[0][:60], FILES[0][60:], limits=limits)[0] == 200


def test_a_picture_of_too_many_pixels_is_refused_by_its_head_alone(served: loading.Served) -> None:
    bomb = png(MOST_PIXELS // 4096, 4097)
    assert len(bomb) < 20_000
    assert told(post(served, bomb)) == (
        400,
        f"picture: found 4096 x 4097 pixels, expected at most {MOST_PIXELS:,}; give a smaller "
        "picture.",
    )
    assert post(served, png(4096, 64))[0] == 200


def test_more_inputs_than_a_request_may_have_are_refused(served: loading.Served) -> None:
    arrays = [np.asarray(picture).tolist() for picture in PICTURES[:4]]
    body = json.dumps(arrays).encode()
    answer = post(served, body, limits=Limits(inputs=3), Content_Type=JSON)
    wanted = 413, "body: expected at most 3 inputs; ask several times."
    assert told(answer) == wanted
    fields = [b"--x\r\n\r\n" + file + b"\r\n" for file in FILES[:4]]
    four, three = (
        post(
            served,
            b"".join(fields[:count]) + b"--x--\r\n",
            limits=Limits(inputs=3),
            Content_Type="multipart/form-data; boundary=x",
        )
        for count in (4, 3)
    )
    assert (told(four), three[0]) == (wanted, 200)


def test_a_body_that_does_not_come_is_not_waited_for(served: loading.Served) -> None:
    answer = post(served, FILES[0], limits=Limits(receiving=0.05), pause=30)
    wanted = "body: found no end of it within 0.05 s, expected all of it."
    assert told(answer) == (408, wanted)


def test_when_as_much_waits_as_may_the_next_is_told_when_to_come_again(
    served: loading.Served,
) -> None:
    async def crowd(limits: Limits) -> list[Answer]:
        gate = app(served, None, limits)
        calls = [call(gate, "POST", "/predict", file, Content_Type=PNG) for file in FILES]
        return await asyncio.gather(*calls)

    for limits, most in ((Limits(waiting=6), 6), (Limits(requests=5), 5)):
        answers = asyncio.run(crowd(limits))
        refused = [answer for answer in answers if answer[0] == 503]
        assert [answer[0] for answer in answers].count(200) == most == 20 - len(refused)
        assert {answer[1]["retry-after"] for answer in refused} == {"1"}
        wanted = served.predictor.predict(PICTURES)
        assert [json.loads(answer[2]) for answer in answers if answer[0] == 200] == [
            [one] for one, answer in zip(wanted, answers, strict=True) if answer[0] == 200
        ]


def test_bodies_that_have_not_arrived_keep_nobody_out(served: loading.Served) -> None:
    size = 1 << 17
    limits = Limits(requests=1, body=size, bodies=4 * size)

    async def while_they_arrive() -> tuple[list[int], list[int]]:
        gate, never = app(served, None, limits), asyncio.Event()
        begun = [b"a" * (size - 1), b"a"]
        slow = [
            asyncio.create_task(
                call(gate, "POST", "/predict", *begun, pause=0.01, Content_Length=str(size))
            )
            for _ in range(32)
        ]
        announced = asyncio.create_task(
            call(gate, "POST", "/predict", *begun, until=never, Content_Length=str(size))
        )
        await asyncio.sleep(0)
        found = [(await call(gate, "GET", "/readyz"))[0]]
        found.append((await call(gate, "POST", "/predict", FILES[0], Content_Type=PNG))[0])
        statuses = [answer[0] for answer in await asyncio.gather(*slow)]
        found.append((await call(gate, "GET", "/readyz"))[0])
        announced.cancel()
        return found, statuses

    found, statuses = asyncio.run(while_they_arrive())
    assert found == [200, 200, 200]
    # Of those that all but arrived the oldest made room; the others were no pictures.
    assert {*statuses} == {400, 503}


def test_readiness_knows_of_inputs_that_wait_and_of_large_bodies(
    served: loading.Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, goes_on = served.predictor.answers, threading.Event()
    monkeypatch.setattr(served.predictor, "answers", lambda rows: goes_on.wait(60) and plain(rows))

    async def statuses(gate: Gate, *slow: Coroutine[Any, Any, Answer]) -> list[int]:
        asked = []
        for one in slow:
            asked.append(asyncio.create_task(one))
            for _ in range(10):  # until it waits
                await asyncio.sleep(0)
        try:
            found = [(await call(gate, "GET", "/readyz"))[0]]
        finally:
            goes_on.set()
        found += [answer[0] for answer in await asyncio.gather(*asked)]
        return [*found, (await call(gate, "GET", "/readyz"))[0]]

    four = json.dumps([np.asarray(picture).tolist() for picture in PICTURES[:4]]).encode()
    for waiting, ready in ((4, 503), (5, 200)):
        goes_on.set()  # an example is computed first
        gate = app(served, None, Limits(waiting=waiting))
        goes_on.clear()
        crowd = [call(gate, "POST", "/predict", four, Content_Type=JSON) for _ in range(2)]
        assert asyncio.run(statuses(gate, *crowd)) == [ready, 200, 200, 200]
    size = 1 << 17
    for bodies, ready in ((2 * size - 1, 503), (2 * size, 200)):
        goes_on.set()
        gate = app(served, None, Limits(body=size, bodies=bodies))
        goes_on.clear()
        large = call(gate, "POST", "/predict", four.ljust(size), Content_Type=JSON)
        assert asyncio.run(statuses(gate, large)) == [ready, 200, 200]
    for requests, ready in ((1, 503), (2, 200)):
        goes_on.set()
        gate = app(served, None, Limits(requests=requests))
        goes_on.clear()
        one = call(gate, "POST", "/predict", four, Content_Type=JSON)
        assert asyncio.run(statuses(gate, one)) == [ready, 200, 200]


def test_a_model_that_fails_for_one_input_fails_for_that_alone_and_shows_nothing(
    served: loading.Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, bad = served.predictor.answers, served.predictor.read(PICTURES[3])

    def answers(rows: Any) -> Any:
        if any(np.array_equal(row, bad) for row in rows):
            raise ZeroDivisionError("/a/secret/path")
        return plain(rows)

    monkeypatch.setattr(served.predictor, "answers", answers)

    async def crowd() -> list[Answer]:
        gate = app(served)
        return await asyncio.gather(*(call(gate, "POST", "/predict", file) for file in FILES))

    found = asyncio.run(crowd())
    assert [answer[0] for answer in found] == [200] * 3 + [500] + [200] * 16
    failed = "server: failed by a fault of its own, which is in its log."
    assert told(found[3]) == (500, failed)
    assert "ZeroDivisionError: /a/secret/path" in caplog.text


def test_with_a_token_only_the_page_and_the_probes_are_open(served: loading.Served) -> None:
    gate = app(served, "sesame")
    paths = ("/", "/healthz", "/readyz", "/model", "/metrics", "/openapi.json", "/docs", "/any")

    def statuses(**headers: Any) -> list[int]:
        return [asyncio.run(call(gate, "GET", path, **headers))[0] for path in paths]

    closed = [200, 200, 200, 401, 401, 401, 401, 401]
    assert statuses() == closed
    for wrong in (
        "Bearer sesam",
        "Bearer sesame ",
        "bearer sesame",
        "sesame",
        "Bearer ",
        "Bearer é",
    ):
        assert statuses(Authorization=wrong) == closed
    assert statuses(Authorization="Bearer sesame") == [200] * 7 + [404]
    refused = asyncio.run(call(gate, "POST", "/predict", FILES[0]))
    assert (refused[0], refused[1]["www-authenticate"]) == (401, "Bearer")
    assert asyncio.run(call(gate, "POST", "/predict", FILES[0], Authorization="Bearer sesame"))[
        0
    ] == 200  # fmt: skip


def test_the_page_may_load_and_do_nothing_but_its_own(served: loading.Served) -> None:
    status, headers, page = asyncio.run(call(app(served), "GET", "/"))
    rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert (status, rules["default-src"], rules["connect-src"]) == (200, "'none'", "'self'")
    assert "unsafe" not in headers["content-security-policy"]
    for outside in (b"http://", b"https://", b" src=", b"@import", b"url("):
        assert outside not in page


def test_what_is_asked_is_counted(served: loading.Served) -> None:
    async def some() -> bytes:
        gate = app(served)
        await asyncio.gather(*(call(gate, "POST", "/predict", file) for file in FILES))
        await call(gate, "POST", "/predict", b"no picture")
        await call(gate, "GET", "/made/up")
        return (await call(gate, "GET", "/metrics"))[2]

    lines = asyncio.run(some()).decode().splitlines()
    wanted = [
        'lockstep_requests_total{path="/predict",status="200"} 20.0',
        'lockstep_requests_total{path="/predict",status="400"} 1.0',
        'lockstep_requests_total{path="other",status="404"} 1.0',
        "lockstep_predict_seconds_count 20.0",
        "lockstep_block_inputs_sum 20.0",
        "lockstep_waiting_inputs 0.0",
        "lockstep_requests_under_way 0.0",
    ]
    assert [line for line in wanted if line not in lines] == []


def test_the_examples_of_the_description_are_answered_as_it_says(served: loading.Served) -> None:
    gate = app(served)
    described = json.loads(asyncio.run(call(gate, "GET", "/openapi.json"))[2])
    post = described["paths"]["/predict"]["post"]
    given = post["requestBody"]["content"][JSON]["examples"]["one"]["value"]
    wanted = post["responses"]["200"]["content"][JSON]["examples"]["one"]["value"]
    body = json.dumps(given).encode()
    found = asyncio.run(call(gate, "POST", "/predict", body, Content_Type=JSON))
    assert json.loads(found[2]) == wanted
    assert np.asarray(given[0]).shape == np.asarray(Preprocess.show(np.zeros((8, 8)))).shape
