"""Models of each kind over HTTP: asked in each way, refused in one line, shown on the page."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.answers import golden
from lockstep.serving.app import app
from lockstep.tests.answers.kinds import EXAMPLES, Kinds, served
from lockstep.tests.conftest import ROOT, plain_environment
from lockstep.tests.serving.callers import JSON, PNG, call, told
from lockstep.tests.serving.test_app import ask, content, free_port
from lockstep.tests.serving.test_page import open_page  # noqa: F401
from lockstep.tests.test_jupyterlab import browser, needs_chromium  # noqa: F401

CSV, NPY = "text/csv", "application/x-npy"
SERVER = """
import sys
from pathlib import Path
from lockstep.ground import profiles
profiles.enter("portable")
import pytest
from lockstep.serving.limits import Limits
from lockstep.serving.server import serve
from lockstep.serving.stopping import Stop
from lockstep.tests.answers.kinds import Kinds
kinds = Kinds(Path(sys.argv[1]), pytest.MonkeyPatch())
model, port = sys.argv[2], int(sys.argv[3])
stop = Stop(Limits.stopping).listen()
say = lambda line: print(line, flush=True)
serve(lambda: kinds.served(model), "127.0.0.1", port, say, stop=stop)
"""


def post(gate: Any, body: Any, kind: str = JSON) -> tuple[int, Any]:
    """Status and JSON of an answer to what is posted."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, answer = asyncio.run(call(gate, "POST", "/predict", sent, content_type=kind))
    return status, json.loads(answer)


def in_json(predictor: Any, row: Any) -> Any:
    shown = predictor.as_input(row)
    return shown if isinstance(shown, str) else golden.as_lists(shown)


@contextmanager
def serving(folder: Path, name: str) -> Iterator[int]:
    """The port of a real server of a kind."""
    words = [sys.executable, "-c", SERVER, str(folder), name, str(port := free_port())]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    server = subprocess.Popen(words, cwd=ROOT, env=plain_environment(), **pipes)
    assert server.stdout
    try:
        assert server.stdout.readline().startswith("serving tiny-base-s1 at http://")
        yield port
    finally:
        server.terminate()
        server.communicate(timeout=60)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_of_each_kind_answers_as_its_predictor(kinds: Kinds, name: str) -> None:
    predictor = kinds.predictor(name)
    gate, rows = app(served(predictor)), list(EXAMPLES[name].inputs[:3])
    inputs = [in_json(predictor, row) for row in rows]
    assert post(gate, inputs) == (200, predictor.answers(rows))
    assert post(gate, inputs[0]) == (200, predictor.answers(rows[:1]))
    assert post(gate, []) == (200, [])


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_description_has_an_answer_that_the_model_has_given(kinds: Kinds, name: str) -> None:
    gate = app(served(kinds.predictor(name)))
    described = json.loads(asyncio.run(call(gate, "GET", "/openapi.json"))[2])
    asked = described["paths"]["/predict"]["post"]
    (given,) = asked["requestBody"]["content"][JSON]["examples"]["one"]["value"]
    answered = asked["responses"]["200"]["content"][JSON]
    assert post(gate, given) == (200, answered["examples"]["one"]["value"])
    (answer,) = answered["examples"]["one"]["value"]
    assert sorted(answer) == sorted(answered["schema"]["items"]["required"])


def test_rows_of_numbers_come_by_name_as_a_table_as_an_array_and_in_a_form(kinds: Kinds) -> None:
    predictor = kinds.predictor("numbers")
    gate, rows = app(served(predictor)), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    file = io.BytesIO()
    np.save(file, np.array(rows))
    named = [dict(zip(("rooms", "area", "age"), row, strict=True)) for row in rows]
    table = b"\xef\xbb\xbfage,price,rooms,area\n3,0,1,2\n6,0,4,5\n"
    form = b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n" + table[3:] + b"\r\n--x--"
    wanted = 200, predictor.predict(rows)
    assert post(gate, named) == wanted
    assert post(gate, table, CSV) == wanted
    assert post(gate, b"1,2,3\n4,5,6\n", CSV) == wanted
    assert post(gate, b"1,2,3\n4,5,6\n", "application/x-www-form-urlencoded") == wanted
    assert post(gate, file.getvalue(), NPY) == wanted
    assert post(gate, form, "multipart/form-data; boundary=x") == wanted


@pytest.mark.parametrize(
    ("body", "kind", "detail"),
    [
        ([1, 2], JSON, "numbers: found 2, expected 3 numbers (rooms, area, age)."),
        ({"rooms": 1}, JSON, "numbers: area not found, expected rooms, area, age (found rooms)."),
        (["one"], JSON, "body: found other JSON, expected a list of numbers"),
        ([[1, 2, None]], JSON, "age: found None, expected a finite number of 32 bits."),
        (b"rooms,area\n1,2\n", CSV, "column age not found, expected rooms, area, age (it has "),
        (b"1,2,x\n", CSV, "row 1, age: found 'x', expected a number."),
        (b"\x89PNG\xff", PNG, "body: found neither text nor NumPy's format, expected 3 numbers"),
        (b"\x93NUMPY", NPY, "array: not readable as NumPy's format ("),
    ],
)
def test_numbers_that_the_model_cannot_take_are_refused_in_one_line(
    kinds: Kinds, body: Any, kind: str, detail: str
) -> None:
    status, answer = post(app(served(kinds.predictor("numbers"))), body, kind)
    assert (status, answer["detail"][: len(detail)]) == (400, detail)


def test_an_exception_in_read_is_no_failure_of_the_server(kinds: Kinds) -> None:
    read = """
    def read(self, source):
        return {}[source[0]] if source[0] == 7 else super().read(source)
"""
    files = EXAMPLES["numbers"].files["inference.py"] + read
    gate = app(served(kinds.predictor("numbers", inference=files)))
    answer = asyncio.run(call(gate, "POST", "/predict", b"[7, 8, 9]", content_type=JSON))
    assert told(answer) == (
        400,
        "numbers: not readable (KeyError: 7), expected 3 numbers (rooms, area, age).",
    )


def test_a_picture_in_colour_is_asked_as_a_file_or_as_an_array(kinds: Kinds) -> None:
    predictor = kinds.predictor("labels")
    gate, picture = app(served(predictor)), predictor.as_input(EXAMPLES["labels"].inputs[0])
    wanted = 200, predictor.predict([picture])
    assert post(gate, content(picture), PNG) == wanted
    assert post(gate, np.asarray(picture).tolist()) == wanted
    assert post(gate, [np.asarray(picture).tolist()]) == wanted


def test_one_tensor_can_always_be_asked_however_large_it_is(kinds: Kinds) -> None:
    from lockstep.serving.limits import Limits

    predictor = kinds.predictor("vector")
    gate = app(served(predictor), limits=Limits(values=2))
    rows = EXAMPLES["vector"].inputs[:2]
    assert post(gate, rows[0].tolist()) == (200, predictor.answers(list(rows[:1])))
    assert post(gate, rows.tolist())[0] == 413


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_real_server_of_each_kind_gives_every_bit(
    kinds: Kinds, tmp_path: Path, name: str
) -> None:
    predictor, rows = kinds.predictor(name), list(EXAMPLES[name].inputs[:40])
    body = json.dumps([in_json(predictor, row) for row in rows]).encode()
    with serving(tmp_path / "server", name) as port:
        assert ask(port, "POST", "/predict", body, JSON) == (200, predictor.answers(rows))
        assert ask(port, "GET", "/model")[1]["gives"] == predictor.gives


@pytest.mark.slow
@needs_chromium
def test_the_page_has_a_field_for_each_number_and_shows_the_value(
    kinds: Kinds,
    open_page: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    predictor = kinds.predictor("numbers")
    (answer,) = predictor.predict([[1, 2.5, -3]])
    with serving(tmp_path / "server", "numbers") as port:
        page = open_page(port)
        for name, text in (("rooms", "1"), ("area", "2.5"), ("age", "-3")):
            page.get_by_label(name, exact=True).fill(text)
        page.keyboard.press("Enter")
        page.wait_for_selector("#label:not(:empty)")
        assert float(page.inner_text("#label")) == pytest.approx(answer["price"], rel=1e-5)
        assert page.inner_text("#took").startswith("price, answered in ")
        assert page.inner_text("#about").endswith("test mae 1.5. Golden answers: equal.")
        assert not any(page.is_visible(f"#{one}") for one in ("pictures", "texts", "list", "mask"))


@pytest.mark.slow
@needs_chromium
def test_the_page_shows_masks_labels_texts_and_vectors(
    kinds: Kinds,
    open_page: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    from lockstep.tests.serving.test_page import bars, drop

    with serving(tmp_path / "labels", "labels") as port:
        predictor, page = kinds.predictor("labels"), open_page(port)
        picture = predictor.as_input(EXAMPLES["labels"].inputs[0])
        drop(page, content(picture))
        page.wait_for_selector("#bars li")
        (answer,) = predictor.predict([picture])
        assert page.inner_text("#label") == (", ".join(answer["labels"]) or "none")
        assert {name for name, _ in bars(page)} == {"bright", "red"}
    with serving(tmp_path / "mask", "mask") as port:
        predictor, page = kinds.predictor("mask"), open_page(port)
        picture = predictor.as_input(EXAMPLES["mask"].inputs[0])
        drop(page, content(picture))
        page.wait_for_selector("#bars li")
        (answer,) = predictor.predict([picture])
        pixels = """() => Array.from(document.getElementById('mask').getContext('2d')
            .getImageData(0, 0, 6, 6).data).filter((_, place) => place % 4 === 0)"""
        reds = [number * 97 % 256 for row in answer["mask"] for number in row]
        assert page.evaluate(pixels) == reds
    with serving(tmp_path / "text", "text") as port:
        page = open_page(port)
        page.get_by_label("Text", exact=True).fill("hello")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#words:not(:empty)")
        (answer,) = kinds.predictor("text").predict(["hello"])
        assert page.inner_text("#words") == answer["text"]
    with serving(tmp_path / "vector", "vector") as port:
        page = open_page(port)
        page.get_by_label("Nested lists of shape 2 × 3").fill("[[1, 2, 3], [4, 5, 6]]")
        page.get_by_role("button", name="Ask").click()
        page.wait_for_selector("#values td")
        (answer,) = kinds.predictor("vector").predict([[[1, 2, 3], [4, 5, 6]]])
        found = [float(text) for text in page.locator("#values td").all_inner_texts()]
        assert found == pytest.approx(answer["vector"], rel=1e-5)
