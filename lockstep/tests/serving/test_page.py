"""The page at ``/`` in a browser: asked by hand, by keyboard, in the dark, and when it fails."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lockstep.answers import golden
from lockstep.examples import load
from lockstep.records.run import Run
from lockstep.tests.serving.conftest import serving
from lockstep.tests.serving.test_app import PICTURES, content
from lockstep.tests.test_jupyterlab import browser, needs_chromium  # noqa: F401

DROP = """([base64, name, type]) => {
    const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
    const moved = new DataTransfer();
    moved.items.add(new File([bytes], name, {type}));
    const options = {dataTransfer: moved, bubbles: true, cancelable: true};
    for (const kind of ['dragenter', 'dragover', 'drop'])
        document.getElementById('drop').dispatchEvent(new DragEvent(kind, options));
}"""
pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:  # noqa: F811
    """Opens the page at a port; in the end it has asked no other server and broken no rule."""
    opened: list[Any] = []
    complaints: list[str] = []

    def at(port: int, **options: Any) -> Any:
        page = browser.new_page(**{"viewport": {"width": 1000, "height": 640}} | options)
        opened.append(page)
        here = (f"http://127.0.0.1:{port}/", "blob:", "data:")
        page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(here) or complaints.append(asked.url))
        page.goto(here[0])
        return page

    yield at
    for page in opened:
        page.close()
    # What browsers note by themselves.
    expected = ("status of 400", "status of 401", "ERR_CONNECTION_REFUSED")
    assert [text for text in complaints if not any(part in text for part in expected)] == []


@pytest.fixture(scope="module")
def port(finished_run: Run) -> Iterator[int]:
    with serving(finished_run) as port:
        yield port


def drop(page: Any, content: bytes, name: str = "a.png", kind: str = "image/png") -> None:
    import base64

    page.wait_for_selector("#drop")
    page.evaluate(DROP, [base64.b64encode(content).decode(), name, kind])


def bars(page: Any) -> list[tuple[str, str]]:
    """The names and shares that the page shows, from the top."""
    rows = page.locator("#bars li").all_inner_texts()
    return [(name, share) for name, share, *_ in (row.split("\n") for row in rows)]


def test_a_picture_that_is_dropped_is_named_with_how_sure_the_model_is(
    port: int, open_page: Callable[..., Any], finished_run: Run, tmp_path: Path
) -> None:
    page = open_page(port)
    page.wait_for_selector("#drop")
    region = page.get_by_role("status")  # of what is hidden it would find none
    assert (region.count(), region.text_content()) == (1, "")
    region.evaluate("region => { region.known = true; }")
    assert page.title() == f"{finished_run.name} · Lockstep"
    drop(page, content(PICTURES[3]))
    page.wait_for_selector("#bars li")
    (answer,) = load("digits", finished_run.folder).predict(PICTURES[3:4])
    shares = sorted(answer["confidences"].items(), key=lambda pair: -pair[1])
    assert page.inner_text("#label") == answer["label"]
    # The same one as before holds the answer, or nobody who listens would hear of it.
    assert (region.count(), region.evaluate("region => region.known")) == (1, True)
    assert region.inner_text().split("\n")[0] == answer["label"]
    assert region.inner_text().endswith(page.inner_text("#took"))
    assert bars(page) == [(name, f"{share:.1%}") for name, share in shares]
    assert f"{answer['confidence']:.1%} sure, answered in " in page.inner_text("#took")
    assert finished_run.name in page.inner_text("#about")
    width = "bar => bar.getBoundingClientRect().width / bar.parentElement.clientWidth"
    assert page.locator(".bar").first.evaluate(width) == pytest.approx(shares[0][1], abs=0.01)
    page.wait_for_selector("#preview:not([hidden])")
    assert page.locator("#preview").evaluate("picture => picture.naturalWidth") == 8
    page.screenshot(path=tmp_path / "page.png")
    print(tmp_path / "page.png")


def test_what_is_no_picture_is_told_and_the_next_one_is_answered(
    port: int, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page(port)
    drop(page, b"GIF89a", "a.gif", "image/gif")
    page.wait_for_selector("#error:not(:empty)")
    assert page.locator("[role=alert]").inner_text() == (
        "picture: no readable picture (no such format); give a PNG or JPEG."
    )
    assert not page.is_visible("#answer")
    page.screenshot(path=tmp_path / "error.png")
    print(tmp_path / "error.png")
    drop(page, content(PICTURES[0]))
    page.wait_for_selector("#bars li")
    assert page.locator("[role=alert]").inner_text() == ""
    assert page.get_by_role("status").inner_text() != ""
    drop(page, b"GIF89a", "a.gif", "image/gif")
    page.wait_for_selector("#error:not(:empty)")
    assert page.get_by_role("status").text_content() == ""


def luminance(colour: str) -> float:
    """Of a colour as a browser names it, by WCAG 2.2 ("relative luminance")."""
    shares = [int(value) / 255 for value in colour.removeprefix("rgb(").rstrip(")").split(",")]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(page: Any, field: str) -> float:
    """The least that the edge of a field has to what lies inside and outside of it."""
    ground, edge, inside = page.locator(field).evaluate(
        """field => [getComputedStyle(field.closest("section")).backgroundColor,
            getComputedStyle(field).borderTopColor, getComputedStyle(field).backgroundColor]"""
    )
    sides = {ground, inside} - {"rgba(0, 0, 0, 0)"}  # which shows the ground
    lights = [sorted((luminance(edge), luminance(side))) for side in sides]
    return min((light + 0.05) / (dark + 0.05) for dark, light in lights)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_fields_can_be_seen(port: int, open_page: Callable[..., Any], scheme: str) -> None:
    """WCAG 1.4.11 wants three to one of what says where a field is."""
    page = open_page(port, color_scheme=scheme)
    page.wait_for_selector("#drop")
    found = {field: contrast(page, field) for field in ("#drop", "#text", "#token")}
    assert {field: ratio for field, ratio in found.items() if ratio < 3} == {}
    assert (luminance("rgb(255, 255, 255)"), luminance("rgb(0, 0, 0)")) == (1, 0)


def test_by_keyboard_alone_a_file_is_chosen(
    port: int, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page(port)
    asked: list[Any] = []
    page.on("filechooser", lambda chooser: asked.append(chooser))
    page.wait_for_selector("#drop")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.locator("#drop").evaluate("drop => getComputedStyle(drop).outlineWidth") == "3px"
    path = tmp_path / "seven.png"
    path.write_bytes(content(PICTURES[7]))
    for _ in range(60):  # Playwright does not say from when on it hears of dialogs
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        if asked:
            break
    asked[0].set_files(path)
    page.wait_for_selector("#bars li")


def test_a_text_model_has_a_field_for_a_text(
    brief_run: Callable[[str], Run], open_page: Callable[..., Any], tmp_path: Path
) -> None:
    run = brief_run("tags/base")
    predictor = load("tags", run.folder)
    with serving(run) as port:
        page = open_page(port)
        page.get_by_label("Text").fill("Object detection with YOLO")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#bars li")
        (answer,) = predictor.predict(["Object detection with YOLO"])
        assert page.inner_text("#label") == answer["label"]
        page.screenshot(path=tmp_path / "text.png")
        print(tmp_path / "text.png")
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("#error:not(:empty)")
    assert page.inner_text("#error") == "The server cannot be reached."


def test_who_has_the_token_is_let_in(finished_run: Run, open_page: Callable[..., Any]) -> None:
    with serving(finished_run, LOCKSTEP_TOKEN="sesame") as port:
        page = open_page(port)
        field = page.get_by_label("Token of this server")
        field.fill("guess")
        page.keyboard.press("Enter")
        page.wait_for_selector("#error:not(:empty)")
        assert not page.is_visible("#drop")
        field.fill("sesame")
        page.keyboard.press("Enter")
        drop(page, content(PICTURES[1]))
        page.wait_for_selector("#bars li")


def test_in_the_dark_and_on_a_phone_all_is_seen(
    port: int, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        page = open_page(port, color_scheme=scheme, viewport={"width": 360, "height": 740})
        drop(page, content(PICTURES[5]))
        page.wait_for_selector("#bars li")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        path = tmp_path / f"{scheme}.png"
        page.screenshot(path=path, full_page=True)
        print(path)
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            ground = int(np.asarray(picture.convert("L"))[2, 2])
        grounds.append(ground)
        ink = page.evaluate("getComputedStyle(document.body).color")
        light = sum(map(int, ink[4:-1].split(","))) / 3
        assert abs(light - ground) > 150
    assert (grounds[0] > 200, grounds[1] < 50) == (True, True)


def test_an_apparel_picture_is_shown_as_the_documentation_has_it(
    brief_run: Callable[[str], Run], open_page: Callable[..., Any], tmp_path: Path
) -> None:
    run = brief_run("apparel/base")
    predictor = load("apparel", run.folder)
    assert predictor.golden
    picture = predictor.preprocess.show(golden.examples(predictor.golden)[0])
    with serving(run) as port:
        page = open_page(port)
        drop(page, content(picture))
        page.wait_for_selector("#bars li")
        assert len(bars(page)) == 10
        page.screenshot(path=tmp_path / "apparel.png")
        print(tmp_path / "apparel.png")
